"""Secrets of tools: where each lies, and how one that a tool repeats is masked in what leaves room 3.

A secret's path names its scope: `<prefix>/deployment/<name>`, `<prefix>/T/<tenant>/<name>`,
`<prefix>/T/<tenant>/U/<user>/<name>`. Tenant and user are the run's principal, so a tool asks for a name and no more.
Rotating means storing a new value: it is read again after `KEPT_S`, or at once where the old one is refused.
"""

import base64
import json
from typing import Any
from urllib.parse import quote

from agent.contracts import Contract, SecretNeed
from agent.errors import ConfigurationInvalid
from agent.identity import Principal

KEPT_S = 120
"""How long a value read may be used without asking again."""
MIN_CHARACTERS, MAX_CHARACTERS = 8, 8192
"""A shorter one could not be masked without masking ordinary words."""
MASK = "[secret]"


def need_of(contract: Contract, name: str) -> SecretNeed:
    """Return what the contract says of a secret.

    Raises:
        ConfigurationInvalid: it does not list it.
    """
    for need in contract.secrets:
        if need.name == name:
            return need
    raise ConfigurationInvalid(f"the contract of {contract.name} does not list the secret {name}")


def path(prefix: str, need: SecretNeed, principal: Principal) -> str:
    """Return the name under which a secret is stored."""
    match need.scope:
        case "deployment":
            place = "deployment"
        case "tenant":
            place = f"T/{principal.tenant_id}"
        case "user":
            place = f"T/{principal.tenant_id}/U/{principal.user_id}"
    return f"{prefix}/{place}/{need.name}"


class Mask:
    """Takes the secrets that a call has read out of what it leaves: as they are, in JSON, in a URL, in base64.

    It is a net for accidents (a server that echoes a header, an error that quotes a request). Code that means to let a
    secret out can write it in a way that no mask finds.
    """

    def __init__(self) -> None:
        self._forms: set[str] = set()

    def add(self, secret: str) -> None:
        """Mask this one from now on."""
        encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
        self._forms |= {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
        self._forms |= {quote(secret, safe=""), encoded}

    def text(self, text: str) -> str:
        """Return a text without them."""
        for form in sorted(self._forms, key=len, reverse=True):
            text = text.replace(form, MASK)
        return text

    def json(self, content: str) -> str:
        """Return a JSON text without them. Still JSON, though a secret may be made of what JSON is made of."""
        if not any(form in content for form in self._forms):
            return content
        return json.dumps(self._plain(json.loads(content)), ensure_ascii=False, separators=(",", ":"))

    def _plain(self, value: Any) -> Any:  # noqa: ANN401 - JSON
        match value:
            case dict():
                return {self.text(name): self._plain(inner) for name, inner in value.items()}
            case list():
                return [self._plain(inner) for inner in value]
            case str():
                return self.text(value)
            case _:  # a number, whose digits may be one
                return MASK if self.text(json.dumps(value)) != json.dumps(value) else value

    def content(self, content: bytes) -> bytes:
        """Return a file without them."""
        for form in sorted(self._forms, key=len, reverse=True):
            content = content.replace(form.encode(), MASK.encode())
        return content
