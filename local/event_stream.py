"""AWS event-stream framing, the sending side: one event or exception as the bytes that every AWS SDK decodes.

botocore brings only the decoder. Format: "Amazon event stream encoding" of the Smithy specification.
"""

import json
from binascii import crc32
from collections.abc import Mapping
from struct import pack
from typing import Any

STRING_HEADER = 7


def event(name: str, payload: Mapping[str, Any]) -> bytes:
    """Return one event of a stream, such as `contentBlockDelta`."""
    return _frame({":event-type": name, ":content-type": "application/json", ":message-type": "event"}, payload)


def exception(name: str, payload: Mapping[str, Any]) -> bytes:
    """Return an error that ends a stream which has already begun, such as `modelStreamErrorException`."""
    return _frame({":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}, payload)


def _frame(headers: Mapping[str, str], payload: Mapping[str, Any]) -> bytes:
    head = b"".join(
        pack("!B", len(key)) + key.encode() + pack("!BH", STRING_HEADER, len(value)) + value.encode()
        for key, value in headers.items()
    )
    body = json.dumps(payload).encode()
    prelude = pack("!II", len(head) + len(body) + 16, len(head))
    message = prelude + pack("!I", crc32(prelude)) + head + body
    return message + pack("!I", crc32(message))
