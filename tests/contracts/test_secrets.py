"""What every reader of tools' secrets does: the suite of the port, in memory and on Secrets Manager (moto)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from agent.aws.secrets import MAX_KEPT, SecretStore
from agent.contracts import Contract, Effect, SecretNeed
from agent.errors import ConfigurationInvalid
from agent.identity import Principal
from agent.secrets import KEPT_S
from agent.testing.clock import FakeClock
from agent.testing.secrets import PREFIX, MemorySecrets
from agent.tools import ReadSecret, ToolFailed

ANN = Principal(tenant_id="acme", user_id="ann", roles=frozenset())
BOB = ANN.model_copy(update={"user_id": "bob"})
GUS = ANN.model_copy(update={"tenant_id": "globex"})
NEEDS = (
    SecretNeed(name="shared-key", scope="deployment"),
    SecretNeed(name="shop-key", scope="tenant"),
    SecretNeed(name="own-key", scope="user"),
)
CONTRACT = Contract(
    name="ask_carrier",
    description="Ask the carrier about a parcel.",
    effect=Effect.EXTERNAL,
    resource="Parcel::all",
    mode="once",
    secrets=NEEDS,
    schema={},
)


@dataclass
class Kept:
    """Secrets that a test puts where they lie, and reads."""

    clock: FakeClock
    put: Callable[[str, str], None]
    reader: Callable[[Principal, Contract], ReadSecret]


@pytest.fixture(params=["memory", "aws"])
def kept(request: pytest.FixtureRequest, aws: Callable[[str], Any]) -> Kept:
    clock = FakeClock()
    if request.param == "memory":
        memory = MemorySecrets(clock)
        return Kept(clock, lambda at, value: memory.values.update({f"{PREFIX}/{at}": value}), memory.reader)
    client = aws("secretsmanager")
    for found in client.list_secrets()["SecretList"]:
        client.delete_secret(SecretId=found["Name"], ForceDeleteWithoutRecovery=True)

    def put(at: str, value: str) -> None:
        name = f"{PREFIX}/{at}"
        if any(found["Name"] == name for found in client.list_secrets()["SecretList"]):
            client.put_secret_value(SecretId=name, SecretString=value)
        else:
            client.create_secret(Name=name, SecretString=value)

    store = SecretStore(PREFIX, clock)
    return Kept(clock, put, lambda who, contract: store.reader(who, contract, lambda: client))


def test_each_scope_is_read_from_its_own_place(kept: Kept) -> None:
    kept.put("deployment/shared-key", "for everybody")
    kept.put("T/acme/shop-key", "for acme alone")
    kept.put("T/globex/shop-key", "for globex alone")
    kept.put("T/acme/U/ann/own-key", "for ann alone")
    kept.put("T/acme/U/bob/own-key", "for bob alone")
    ann, bob, gus = (kept.reader(who, CONTRACT) for who in (ANN, BOB, GUS))
    assert ann("shared-key") == gus("shared-key") == "for everybody"
    assert (ann("shop-key"), bob("shop-key")) == ("for acme alone", "for acme alone")
    assert gus("shop-key") == "for globex alone"
    assert (ann("own-key"), bob("own-key")) == ("for ann alone", "for bob alone")
    with pytest.raises(ToolFailed):
        gus("own-key")


def test_what_the_contract_does_not_list_is_refused(kept: Kept) -> None:
    kept.put("T/acme/shop-key", "for acme alone")
    reader = kept.reader(ANN, CONTRACT.model_copy(update={"secrets": ()}))
    with pytest.raises(ConfigurationInvalid):
        reader("shop-key")


@pytest.mark.parametrize("value", [None, "short", "x" * 8193])
def test_a_missing_or_useless_secret_is_the_same_error_and_says_nothing_of_its_value(
    kept: Kept, value: str | None
) -> None:
    if value is not None:
        kept.put("T/acme/shop-key", value)
    with pytest.raises(ToolFailed) as failed:
        kept.reader(ANN, CONTRACT)("shop-key")
    assert failed.value.code == "secret_unavailable"
    assert "short" not in str(failed.value)


def test_a_new_value_is_read_after_two_minutes_and_at_once_where_it_is_asked_for(kept: Kept) -> None:
    kept.put("T/acme/shop-key", "the first value")
    read = kept.reader(ANN, CONTRACT)
    assert read("shop-key") == "the first value"
    kept.put("T/acme/shop-key", "the second value")
    kept.clock.advance(KEPT_S - 1)
    assert kept.reader(ANN, CONTRACT)("shop-key") == "the first value"
    kept.clock.advance(1)
    assert read("shop-key") == "the second value"
    kept.put("T/acme/shop-key", "the third value")
    assert read("shop-key", fresh=True) == "the third value"
    assert read("shop-key") == "the third value"


def test_the_number_of_remembered_values_is_bounded(aws: Callable[[str], Any]) -> None:
    client = aws("secretsmanager")
    store = SecretStore("many", FakeClock())
    for number in range(MAX_KEPT + 3):
        client.create_secret(Name=f"many/T/t-{number}/shop-key", SecretString="long enough")
        who = ANN.model_copy(update={"tenant_id": f"t-{number}"})
        store.reader(who, CONTRACT, lambda: client)("shop-key")
    assert len(store._kept) == MAX_KEPT
