"""Tools' secrets from Secrets Manager, read with a session of the tenant that may read these and nothing else.

`agent.testing.secrets.MemorySecrets` is its twin. Values stay in the process for two minutes at most, under their whole
path, which names tenant and user.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from agent.aws.dynamodb import store_errors
from agent.contracts import Contract
from agent.identity import Principal
from agent.ports.clock import Clock
from agent.secrets import KEPT_S, MAX_CHARACTERS, MIN_CHARACTERS, need_of, path
from agent.tools import ReadSecret, ToolFailed

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

logger = logging.getLogger(__name__)

MAX_KEPT = 256
ABSENT = {
    "ResourceNotFoundException",
    "AccessDeniedException",
    "AccessDenied",
    "InvalidRequestException",
    "DecryptionFailure",
}
"""Missing, foreign, scheduled for deletion, or under a key the role may not use: to a tool all the same."""


@dataclass
class SecretStore:
    """The secrets of a deployment, and the values this process has read of them."""

    prefix: str
    clock: Clock
    _kept: dict[str, tuple[float, str]] = field(default_factory=dict)

    def reader(
        self, principal: Principal, contract: Contract, connect: "Callable[[], SecretsManagerClient]"
    ) -> ReadSecret:
        """Return what reads the secrets of one call. `connect` gives a client that may read them."""

        def read(name: str, *, fresh: bool = False) -> str:
            at = path(self.prefix, need_of(contract, name), principal)
            now = self.clock.monotonic()
            read_at, value = self._kept.pop(at, (0.0, ""))
            if fresh or not value or now - read_at >= KEPT_S:
                read_at, value = now, _value(connect(), at, name)
            self._kept[at] = read_at, value
            while len(self._kept) > MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            return value

        return read


def _value(client: "SecretsManagerClient", at: str, name: str) -> str:
    with store_errors():
        try:
            value = client.get_secret_value(SecretId=at).get("SecretString", "")
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code not in ABSENT:
                raise
            logger.warning("a secret can not be read", extra={"secret": name, "error": code})
            raise _unavailable() from None
    if not MIN_CHARACTERS <= len(value) <= MAX_CHARACTERS:
        logger.warning("a secret is too short, too long or no text", extra={"secret": name})
        raise _unavailable()
    return value


def _unavailable() -> ToolFailed:
    return ToolFailed("secret_unavailable", "A key that this tool needs is not set up. Tell the user to ask for it.")
