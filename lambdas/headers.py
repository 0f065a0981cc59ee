"""The headers that every answer of the API carries, whoever gives it: a door, the gateway, the firewall.

They are what OWASP's REST Security Cheat Sheet asks of an API that answers with JSON and event streams only: nothing
is cached, framed, sniffed or rendered, and nobody speaks plain HTTP to it. Which pages of other origins may read
answers is the stage's choice; none may unless it is named. `Access-Control-Allow-Credentials` is never sent: the API
knows bearer tokens and no cookies, so a browser has nothing of its own to add.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

SECURITY: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "Strict-Transport-Security": "max-age=63072000; includeSubDomains",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Source: OWASP REST Security Cheat Sheet, "Security Headers", and HTTP Headers Cheat Sheet. `Content-Type` is each
answer's own. The resource policy concerns pages that embed answers, not those that CORS lets read them."""

REQUEST_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID")
"""What a page of an allowed origin may send."""
EXPOSED = "Retry-After, WWW-Authenticate"
"""What it may read, beside what browsers always show."""
PREFLIGHT_S = 600
"""How long a browser may remember a preflight's answer."""

_ORIGIN = re.compile(r"https://[a-z0-9.-]+(:[0-9]{1,5})?|http://(localhost|127\.0\.0\.1)(:[0-9]{1,5})?")


@dataclass(frozen=True)
class Cors:
    """The origins whose pages may read answers, in the order they were given."""

    origins: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str) -> Self:
        """Read a comma-separated list; empty allows none.

        Raises:
            ValueError: a part is no origin. `*`, `null`, a path and plain HTTP to another machine are none.
        """
        origins = tuple(part.strip() for part in text.split(",") if part.strip())
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"allowed_origins: {origin!r} is not https://<host>[:<port>] or http://localhost[:<port>]"
                )
        return cls(origins)

    def headers(self, origin: str | None) -> dict[str, str]:
        """Return what an answer to a request from `origin` carries; nothing where no origin is allowed at all."""
        if not self.origins:
            return {}
        # Also for others: a cache between must not give one origin's answer to the next.
        vary = {"Vary": "Origin"}
        if origin not in self.origins:
            return vary
        return vary | {"Access-Control-Allow-Origin": str(origin), "Access-Control-Expose-Headers": EXPOSED}


NOBODY = Cors()
"""No page of another origin may read anything."""
