"""The tools, one file each; `TOOLS` is what there is."""
