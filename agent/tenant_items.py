"""The shapes of a tenant's items and files that every implementation of `tools.TenantData` and `TenantFiles` keeps.

A tool that breaks one has a mistake in it: ValueError, before anything is read or written. Ids have no `#`, so a kind
and an id can't be mistaken for another kind and id, and nothing in them sorts before `-` or behind `z`.
"""

import json
import re
from typing import Any

KIND = re.compile(r"[a-z]{1,32}")
ITEM_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
ID_PART = re.compile(r"[A-Za-z0-9_.-]{0,128}")
FILE_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
KEYS = frozenset({"pk", "sk"})
MAX_PAGE = 100
MAX_ITEM_BYTES = 64_000
"""Far below the 400 KB that DynamoDB takes, so that a page of them stays in a function's memory."""

MAX_NUMBER = 10**38
"""DynamoDB keeps 38 digits."""


def require_id(kind: str, item_id: str) -> None:
    """Refuse what is no kind or no id.

    Raises:
        ValueError: it names the shape.
    """
    if not KIND.fullmatch(kind) or not ITEM_ID.fullmatch(item_id):
        raise ValueError(f"an item is named by a kind {KIND.pattern} and an id {ITEM_ID.pattern}")


def require_page(kind: str, prefix: str, after: str, limit: int) -> None:
    """Refuse what is no page of a query.

    Raises:
        ValueError: it names the shape.
    """
    if not KIND.fullmatch(kind) or not ID_PART.fullmatch(prefix) or not ID_PART.fullmatch(after):
        raise ValueError(f"a query takes a kind {KIND.pattern} and, as prefix and after, {ID_PART.pattern}")
    if not 1 <= limit <= MAX_PAGE:
        raise ValueError(f"a page has 1 to {MAX_PAGE} items, not {limit}")


def require_item(item: dict[str, Any]) -> None:
    """Refuse an item that would not come back as it went in.

    Raises:
        ValueError: it has a key of the table's own, is no JSON object of whole numbers, or has too many bytes.
    """
    if not KEYS.isdisjoint(item):
        raise ValueError("an item has no pk and sk: they are the table's own")
    if not _is_storable(item):
        raise ValueError("an item is a JSON object with whole numbers: money is in cents, times are text")
    size = len(json.dumps(item, ensure_ascii=False).encode(errors="replace"))
    if size > MAX_ITEM_BYTES:
        raise ValueError(f"an item has at most {MAX_ITEM_BYTES} bytes, not {size}")


def file_key(tenant_id: str, run_id: str, name: str) -> str:
    """Return the object key of a run's file.

    Raises:
        ValueError: not a name; a path, such as one with a slash or a leading dot, is none.
    """
    if not FILE_NAME.fullmatch(name):
        raise ValueError(f"a file's name is {FILE_NAME.pattern}")
    return f"T/{tenant_id}/{run_id}/{name}"


def _is_storable(value: object) -> bool:
    match value:
        case None | bool() | str():
            return True
        case int():
            return abs(value) < MAX_NUMBER
        case dict():
            return all(isinstance(name, str) and name and _is_storable(item) for name, item in value.items())
        case list() | tuple():
            return all(map(_is_storable, value))
        case _:
            return False
