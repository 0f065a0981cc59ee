"""A tool's session: tagged with its tenant, narrowed to its contract, kept while it lasts; and no other credentials."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from agent.aws.secrets import SecretStore
from agent.aws.tenant_sessions import (
    MAX_SESSIONS,
    Connect,
    TenantSessions,
    drop_ambient_credentials,
    secrets_policy,
    session_policy,
)
from agent.contracts import Contract, SecretNeed
from agent.errors import ConfigurationInvalid, StoreUnavailable
from agent.identity import Principal
from agent.testing.clock import FakeClock
from support_desk.tools import TOOLS

ROLE = "arn:aws:iam::123456789012:role/data"
RUN = "run_01JABCDEFGHJKMNPQRSTVWXYZ0"


class Sts:
    """Security tokens as STS gives them, each with a name of its own."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.asked: list[dict[str, Any]] = []

    def assume_role(self, **asked: Any) -> dict[str, Any]:
        self.asked.append(asked)
        expires = self._clock.now() + timedelta(seconds=asked["DurationSeconds"])
        return {"Credentials": {"AccessKeyId": f"key-{len(self.asked)}", "Expiration": expires}}


class Doors:
    """TenantSessions over the double; a client is the id of the key it was built with."""

    def __init__(self) -> None:
        self.clock = FakeClock(datetime(2026, 11, 20, tzinfo=UTC))
        self.sts = Sts(self.clock)
        client: Any = lambda keys: keys["AccessKeyId"]  # noqa: E731 - as Any, for a client it is not
        connect = Connect(dynamodb=client, s3=client, secrets=client)
        sts: Any = self.sts
        self.sessions = TenantSessions(
            sts, ROLE, "table", "bucket", connect, self.clock, SecretStore("keepgate/test", self.clock)
        )

    def key(self, tenant_id: str, tool: str = "lookup_order") -> str:
        return str(self.sessions.data(tenant_id, TOOLS[tool].contract)._client)


def test_a_session_is_tagged_with_its_tenant_and_short() -> None:
    doors = Doors()
    doors.key("acme")
    [asked] = doors.sts.asked
    assert asked["RoleArn"] == ROLE
    assert asked["Tags"] == [{"Key": "tenant_id", "Value": "acme"}]
    assert asked["DurationSeconds"] == 900
    assert len(asked["RoleSessionName"]) <= 64


def test_two_tenants_never_share_a_session() -> None:
    doors = Doors()
    assert doors.key("acme") == "key-1"
    assert doors.key("globex") == "key-2"
    assert doors.key("acme") == "key-1"
    assert [asked["Tags"][0]["Value"] for asked in doors.sts.asked] == ["acme", "globex"]


def allowed(policy: str) -> list[str]:
    [statement] = json.loads(policy)["Statement"]
    assert statement["Effect"] == "Allow"
    return [action for action in statement["Action"] if action != "kms:*"]


@pytest.mark.parametrize("name", TOOLS)
def test_a_session_may_do_what_its_contract_lists_and_no_more(name: str) -> None:
    contract: Contract = TOOLS[name].contract
    doors = Doors()
    doors.key("acme", name)
    files = ["s3:PutObject"] if contract.writes_files else []
    assert allowed(doors.sts.asked[0]["Policy"]) == [*contract.data_actions, *files]
    assert len(doors.sts.asked[0]["Policy"]) <= 2048


def test_tools_with_other_rights_get_other_sessions_and_those_with_the_same_share_one() -> None:
    doors = Doors()
    assert doors.key("acme", "lookup_order") != doors.key("acme", "list_orders")
    assert doors.key("acme", "list_orders") == doors.key("acme", "search_policy")


def test_a_session_that_ends_before_the_call_could_is_replaced() -> None:
    doors = Doors()
    timeout_s = TOOLS["lookup_order"].contract.timeout_s
    assert doors.key("acme") == "key-1"
    doors.clock.advance(900 - 30 - timeout_s - 1)
    assert doors.key("acme") == "key-1"
    doors.clock.advance(1)
    assert doors.key("acme") == "key-2"


def test_the_number_of_kept_sessions_is_bounded() -> None:
    doors = Doors()
    for number in range(MAX_SESSIONS + 5):
        doors.key(f"tenant-{number}")
    assert len(doors.sessions._sessions) == MAX_SESSIONS
    assert doors.key(f"tenant-{MAX_SESSIONS + 4}") == f"key-{MAX_SESSIONS + 5}"


def test_the_platforms_own_results_need_no_right_of_the_tool() -> None:
    doors = Doors()
    doors.sessions.results("acme", RUN)._connect()
    assert allowed(doors.sts.asked[0]["Policy"]) == ["s3:PutObject"]
    assert allowed(session_policy(TOOLS["lookup_order"].contract)) == ["dynamodb:GetItem"]


ANN = Principal(tenant_id="acme", user_id="ann", roles=frozenset())


def needing(*needs: SecretNeed) -> Contract:
    return TOOLS["lookup_order"].contract.model_copy(update={"secrets": needs})


def test_a_session_for_secrets_may_read_the_contracts_own_and_nothing_else() -> None:
    doors = Doors()
    contract = needing(SecretNeed(name="shop-key", scope="tenant"), SecretNeed(name="own-key", scope="user"))
    read = doors.sessions.secrets(ANN, contract)
    assert doors.sts.asked == [], "no session before the first secret"
    with pytest.raises(AttributeError):  # the client is the id of a key
        read("own-key")
    [asked] = doors.sts.asked
    assert asked["Tags"] == [{"Key": "tenant_id", "Value": "acme"}]
    secrets, keys = json.loads(asked["Policy"])["Statement"]
    assert secrets == {
        "Effect": "Allow",
        "Action": ["secretsmanager:GetSecretValue"],
        "Resource": [
            "arn:*:secretsmanager:*:*:secret:keepgate/test/T/acme/shop-key-??????",
            "arn:*:secretsmanager:*:*:secret:keepgate/test/T/acme/U/ann/own-key-??????",
        ],
    }
    assert keys["Action"] == ["kms:Decrypt"]


def test_two_users_of_a_tenant_never_share_a_session_for_their_own_secrets() -> None:
    doors = Doors()
    contract = needing(SecretNeed(name="own-key", scope="user"))
    for who in (ANN, ANN.model_copy(update={"user_id": "bob"}), ANN):
        with pytest.raises(AttributeError):
            doors.sessions.secrets(who, contract)("own-key")
    assert len(doors.sts.asked) == 2
    assert "/U/bob/" not in doors.sts.asked[0]["Policy"]
    assert "/U/ann/" not in doors.sts.asked[1]["Policy"]


def test_a_tool_without_secrets_has_no_way_to_one() -> None:
    doors = Doors()
    with pytest.raises(ConfigurationInvalid):
        doors.sessions.secrets(ANN, needing())("shop-key")
    assert doors.sts.asked == []


def test_four_secrets_of_the_longest_names_fit_the_longest_session_policy() -> None:
    needs = [SecretNeed(name=f"{letter}{'x' * 39}", scope="user") for letter in "abcd"]
    longest = Principal(tenant_id="t" * 40, user_id="u" * 128, roles=frozenset())
    assert len(secrets_policy(needing(*needs), longest, "keepgate/staging")) <= 2048


def test_files_open_no_session_before_something_is_written() -> None:
    doors = Doors()
    doors.sessions.files("acme", RUN, TOOLS["export_orders"].contract)
    assert doors.sts.asked == []


def test_sts_itself_takes_what_is_asked_of_it() -> None:
    with mock_aws():
        clock = FakeClock(datetime.now(UTC))
        region = "eu-central-1"
        connect = Connect(
            dynamodb=lambda _: boto3.client("dynamodb", region_name=region),
            s3=lambda _: boto3.client("s3", region_name=region),
            secrets=lambda _: boto3.client("secretsmanager", region_name=region),
        )
        store = SecretStore("keepgate/test", clock)
        sts = boto3.client("sts", region_name=region)
        sessions = TenantSessions(sts, ROLE, "table", "bucket", connect, clock, store)
        sessions.data("acme", TOOLS["export_orders"].contract)
        with pytest.raises(StoreUnavailable):
            sessions.results("acme", RUN).write("a.json", b"", content_type="application/json")


def test_after_the_drop_the_sdk_finds_no_credentials_and_built_clients_keep_theirs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    profile = tmp_path / "profile"
    profile.write_text("[default]\naws_access_key_id = other\naws_secret_access_key = secret\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
        "AWS_ACCESS_KEY_ID": "own",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/",
        "AWS_SHARED_CREDENTIALS_FILE": str(profile),
        "AWS_CONFIG_FILE": str(profile),
    }
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    own = boto3.client("dynamodb", region_name="eu-central-1")
    drop_ambient_credentials(os.environ)
    default: Any = boto3.DEFAULT_SESSION
    assert default.get_credentials() is None
    assert boto3.Session().get_credentials() is None
    assert own._request_signer._credentials.access_key == "own"  # type: ignore[attr-defined] # botocore's own
