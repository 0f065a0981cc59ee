"""One of each kind of what must never be told outside: valid, and found nowhere else in Keepgate."""

CANARIES = {
    "email": "canary.7391@mail.example",
    "phone": "+49 30 901820",
    "iban": "DE89 3704 0044 0532 0130 00",
    "card": "4539 1488 0343 6467",
    "national_id": "44051401359",
    "aws_key": "AKIA7CANARY2ZZQ5XK4T",
    "token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.Y2FuYXJ5",
    "private_key": "-----BEGIN PRIVATE KEY-----MIICcanary-----END PRIVATE KEY-----",
}
TENANT = "canary-tenant-7391"
"""Another tenant's id: has no form to be found by, and must not get so far."""

ALL = " | ".join([*CANARIES.values(), TENANT])

PARTS = (
    "canary",
    "CANARY",
    "30 901820",
    "4930901820",
    "3704 0044",
    "37040044",
    "4539 1488",
    "45391488",
    "0343 6467",
    "44051401359",
    "eyJhbGciOiJIUzI1NiJ9",
    "MIICcan",
    TENANT,
)
"""Of each canary something by which it is known, also where only a piece of it came out."""


def seen_in(told: str) -> list[str]:
    """Return the pieces of canaries that stand in what was told."""
    return [part for part in PARTS if part in told]
