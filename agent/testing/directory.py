"""The people of tenants in memory: the twin of `agent.aws.directory.CognitoDirectory`, held to the same suite."""

from agent.identity import Principal


class MemoryDirectory:
    """`ports.Directory` over whom the test has put in."""

    def __init__(self, *people: Principal) -> None:
        self._people = {(person.tenant_id, person.user_id): person for person in people}

    def put(self, person: Principal) -> None:
        """Add a person, or give them other roles."""
        self._people[person.tenant_id, person.user_id] = person

    def remove(self, tenant_id: str, user_id: str) -> None:
        """Take a person out: deleted, or not allowed to sign in any more."""
        self._people.pop((tenant_id, user_id), None)

    def principal(self, tenant_id: str, user_id: str) -> Principal | None:
        """See `ports.Directory`."""
        return self._people.get((tenant_id, user_id))
