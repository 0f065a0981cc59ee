"""The example agent that a team replaces: tools, policies, prompts and releases of a shop's support desk."""
