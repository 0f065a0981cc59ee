"""Lists within a contract's rows: what a result has beyond is left out, and the result says so.

A tool that pages by itself stays below its own contract and never meets this. It is for the one that does not: the
model gets rows it can read, in place of a text that breaks off somewhere, and the way to the others.
"""

from collections.abc import Mapping

from pydantic import JsonValue

from agent.contracts import Contract, canonical_json

LEFT_OUT = "rows_left_out"
MAX_NAMED = 10
"""Lists that the mark names."""


def shortened(result: JsonValue, contract: Contract) -> str | None:
    """Return the JSON text of a result with rows left out and the mark that says so; None where nothing is too long."""
    lengths: dict[str, int] = {}
    short = _short(result, contract.max_rows, "", lengths)
    if not lengths:
        return None
    shown = {path or "rows": {"shown": contract.max_rows, "of": lengths[path]} for path in list(lengths)[:MAX_NAMED]}
    mark: Mapping[str, object] = {LEFT_OUT: {**shown, "how_to_get_them": contract.next_page}}
    return canonical_json({**(short if isinstance(short, dict) else {"rows": short}), **mark})


def _short(value: JsonValue, most: int, path: str, lengths: dict[str, int]) -> JsonValue:
    match value:
        case list():
            if len(value) > most:
                lengths[path] = max(len(value), lengths.get(path, 0))
            return [_short(item, most, f"{path}[]", lengths) for item in value[:most]]
        case dict():
            dot = "." if path else ""
            return {key: _short(item, most, f"{path}{dot}{key}", lengths) for key, item in value.items()}
        case _:
            return value
