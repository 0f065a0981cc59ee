"""Who people are now."""

from typing import Protocol

from agent.identity import Principal


class Directory(Protocol):
    """Who people are now. The claims of a run or a request are what they were when their token was made."""

    def principal(self, tenant_id: str, user_id: str) -> Principal | None:
        """Return a person of a tenant with today's roles; None where there is none, or who may not sign in any more.

        Raises:
            StoreUnavailable: no answer within the bounded retries.
        """
        ...
