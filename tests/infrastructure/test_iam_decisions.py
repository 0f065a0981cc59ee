"""What IAM decides about each role's requests: the policies of prod, evaluated with their conditions and variables.

`test_rights` reads what the policies say; here they are asked, also for what nobody thought of writing down. The lists
of what each door may do are those of `test_rights`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import pytest

from agent.aws.tenant_sessions import secrets_policy, session_policy
from agent.identity import Principal
from stacks.contracts import read_model_ids, read_rights
from support_desk.tools import TOOLS
from tests.iam.simulator import ACCOUNT, REGION, Account, Request, Simulator
from tests.infrastructure.templates import Deployment
from tests.infrastructure.test_rights import INVOKES, LOCKED, TABLES

TABLE_ACTIONS = (
    *("GetItem", "BatchGetItem", "Query", "Scan", "PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem"),
    *("ConditionCheckItem", "PartiQLSelect", "PartiQLInsert", "PartiQLUpdate", "PartiQLDelete"),
    *("ExportTableToPointInTime", "CreateBackup", "RestoreTableToPointInTime", "DescribeTable", "UpdateTable"),
    *("DeleteTable", "PutResourcePolicy", "UpdateTimeToLive", "EnableKinesisStreamingDestination"),
)
"""How data gets in or out of a table, or a table out of our hands."""
CONTROL: dict[str, dict[str, set[str]]] = {
    "run_agent": {"BREAKER#model": {"GetItem", "UpdateItem"}},
    "work_tool_queue": {"BREAKER#model": {"GetItem", "UpdateItem"}},
    "run_tool": {"STOPPED": {"GetItem", "PutItem"}},
    "shim": {
        **{key: {"PutItem"} for key in ("SWITCH#BY#acme", "OWN_LIMIT#acme", "OWN_LIMIT#acme#ann")},
        "AUDIT#T#acme": {"PutItem", "Query"},
    },
    "administer": {
        **{key: {"PutItem"} for key in ("SWITCH#PLATFORM", "SWITCH#ON#acme", "LIMIT", "LIMIT#acme")},
        **{key: {"PutItem", "Query"} for key in ("AUDIT#T#acme", "AUDIT#PLATFORM")},
        "STOPPED": {"Query"},
    },
}
"""What each door does with which items of the control table, beside reading several by their keys."""
CONTROL_KEYS = sorted({key for keys in CONTROL.values() for key in keys} | {"RELEASE#support-desk-1", "T#acme", "*"})
CANDIDATES = {"Control": CONTROL_KEYS, "Ledger": ["B#user#acme#ann"], "TenantData": ["T#acme"]}
"""Partition keys with one of which a request to a table has the best chance."""
LEADING, TAG = "dynamodb:LeadingKeys", "aws:PrincipalTag/tenant_id"
ACME = {TAG: "acme"}


@pytest.fixture(scope="module")
def simulator(prod: Deployment) -> Iterator[Simulator]:
    with Simulator(Account(prod)) as opened:
        yield opened


@pytest.fixture(scope="module")
def account(simulator: Simulator) -> Account:
    return simulator.account


def refused(simulator: Simulator, *requests: Request) -> None:
    assert requests
    for request, decision in zip(requests, simulator.decide(*requests), strict=True):
        assert decision in {"ImplicitlyDenied", "ExplicitlyDenied"}, (request, decision)


def allowed(simulator: Simulator, *requests: Request) -> None:
    assert requests
    for request, decision in zip(requests, simulator.decide(*requests), strict=True):
        assert decision == "Allowed", (request, decision)


# --- tables -----------------------------------------------------------------------------------------------------------


def test_each_role_is_allowed_exactly_its_doors_actions_on_each_table(simulator: Simulator, account: Account) -> None:
    asked = [
        (door, table, action, Request(door, f"dynamodb:{action}", account.tables[table], {**ACME, LEADING: [key]}))
        for door, table, action in product(account.roles, account.tables, TABLE_ACTIONS)
        for key in CANDIDATES.get(table, ["T#acme#R#run"])
    ]
    found: dict[tuple[str, str], set[str]] = {}
    decisions = simulator.allowed(*(request for *_, request in asked))
    for (door, table, action, _), is_allowed in zip(asked, decisions, strict=True):
        if is_allowed:
            found.setdefault((door, table), set()).add(action)
    assert found == TABLES


def test_a_tenants_operators_write_nothing_that_is_the_platforms_nor_the_other_way_round(
    simulator: Simulator, account: Account
) -> None:
    own = ("SWITCH#BY#acme", "OWN_LIMIT#acme", "OWN_LIMIT#acme#ann")
    platforms = ("SWITCH#PLATFORM", "SWITCH#ON#acme", "LIMIT", "LIMIT#acme", "LIMIT#acme#ann")
    shared, table = "AUDIT#T#acme", account.tables["Control"]

    def put(door: str, *keys: str) -> Request:
        return Request(door, "dynamodb:PutItem", table, {LEADING: list(keys)})

    allowed(simulator, *(put("shim", key, shared) for key in own))
    allowed(simulator, *(put("administer", key, shared) for key in platforms))
    refused(simulator, *(put("shim", key, shared) for key in (*platforms, "AUDIT#PLATFORM", "BREAKER#model")))
    refused(simulator, *(put("administer", key, shared) for key in (*own, "BREAKER#model")))
    refused(simulator, *(Request(door, "dynamodb:PutItem", table, {}) for door in ("shim", "administer")))
    refused(simulator, Request("shim", "dynamodb:Query", table, {LEADING: ["AUDIT#PLATFORM"]}))
    for keys in (["B#platform#0"], ["B#user#acme#ann", "B#platform#0"]):
        refused(simulator, Request("shim", "dynamodb:BatchGetItem", account.tables["Ledger"], {LEADING: keys}))


def test_each_role_reaches_exactly_its_doors_items_of_the_control_table(simulator: Simulator, account: Account) -> None:
    actions = [action for action in TABLE_ACTIONS if action != "BatchGetItem"]
    asked = list(product(account.roles, CONTROL_KEYS, actions))
    table = account.tables["Control"]
    found: dict[str, dict[str, set[str]]] = {}
    decisions = simulator.allowed(*(Request(d, f"dynamodb:{a}", table, {LEADING: [key]}) for d, key, a in asked))
    for (door, key, action), is_allowed in zip(asked, decisions, strict=True):
        if is_allowed:
            found.setdefault(door, {}).setdefault(key, set()).add(action)
    assert found == CONTROL


def test_a_request_to_the_control_table_without_a_key_or_with_one_more_is_refused(
    simulator: Simulator, account: Account
) -> None:
    table = account.tables["Control"]
    for door, keys in CONTROL.items():
        for key, actions in keys.items():
            for action in actions:
                more: dict[str, Any] = {LEADING: [key, "RELEASE#support-desk-1"]}
                refused(simulator, *(Request(door, f"dynamodb:{action}", table, context) for context in ({}, more)))


# --- tenant data ------------------------------------------------------------------------------------------------------

OWN_ACTIONS = read_rights("support_desk").data_actions
NOT_OWN: dict[str, dict[str, Any]] = {
    "no key at all": ACME,
    "another tenant's": {**ACME, LEADING: ["T#globex"]},
    "the own and another's": {**ACME, LEADING: ["T#acme", "T#globex"]},
    "one that begins like the own": {**ACME, LEADING: ["T#acme-2"]},
    "one below the own": {**ACME, LEADING: ["T#acme#R#run"]},
    "every tenant's": {**ACME, LEADING: ["T#*"]},
    "anything": {**ACME, LEADING: ["*"]},
    "the own in capitals": {**ACME, LEADING: ["T#ACME"]},
    "a session without a tag": {LEADING: ["T#acme"]},
    "a session without a tag, and the variable": {LEADING: ["T#${aws:PrincipalTag/tenant_id}"]},
    "a session tagged with nothing": {TAG: "", LEADING: ["T#acme"]},
    "a session tagged with everything": {TAG: "*", LEADING: ["T#acme"]},
    "a session tagged with a part": {TAG: "acm?", LEADING: ["T#acme"]},
}


def test_a_tenants_session_reaches_its_own_items(simulator: Simulator, account: Account) -> None:
    table = account.tables["TenantData"]
    allowed(simulator, *(Request("tenant_data", a, table, {**ACME, LEADING: ["T#acme"]}) for a in OWN_ACTIONS))


@pytest.mark.parametrize("keys", NOT_OWN)
def test_a_tenants_session_reaches_no_others(simulator: Simulator, account: Account, keys: str) -> None:
    table = account.tables["TenantData"]
    refused(simulator, *(Request("tenant_data", action, table, NOT_OWN[keys]) for action in OWN_ACTIONS))


def test_a_request_without_a_key_would_be_allowed_but_for_the_null_condition(
    simulator: Simulator, account: Account
) -> None:
    """The guard broken on purpose: `ForAllValues` holds for no values, so the tests above would see it go."""
    [policy] = account.policies["tenant_data"]
    loosened = {**policy, "Statement": [_without_null(statement) for statement in policy["Statement"]]}
    request = Request("tenant_data", OWN_ACTIONS[0], account.tables["TenantData"], ACME, policies=[loosened])
    allowed(simulator, request)


def _without_null(statement: dict[str, Any]) -> dict[str, Any]:
    conditions = {name: value for name, value in statement.get("Condition", {}).items() if name != "Null"}
    return {**statement, "Condition": conditions}


@pytest.mark.parametrize("name", TOOLS)
def test_a_tools_session_is_allowed_its_contracts_actions_of_them_and_no_more(
    simulator: Simulator, account: Account, name: str
) -> None:
    contract = TOOLS[name].contract
    narrowed = json.loads(session_policy(contract))
    own = {**ACME, LEADING: ["T#acme"]}
    asked = [
        Request("tenant_data", f"dynamodb:{action}", account.tables["TenantData"], own, narrowed)
        for action in TABLE_ACTIONS
    ]
    decisions = dict(zip((request.action for request in asked), simulator.allowed(*asked), strict=True))
    assert {action for action, is_allowed in decisions.items() if is_allowed} == set(contract.data_actions)
    [file] = simulator.allowed(_file(account, "T/acme/run/x.csv", session_policy=narrowed))
    assert file is contract.writes_files


def _bucket(account: Account) -> str:
    [arn] = account.arns("AWS::S3::Bucket").values()
    return arn


def _file(account: Account, key: str, action: str = "s3:PutObject", **more: Any) -> Request:
    return Request("tenant_data", action, f"{_bucket(account)}/{key}", more.pop("context", ACME), **more)


def test_a_tenants_session_writes_files_below_its_own_prefix_alone_and_reads_none(
    simulator: Simulator, account: Account
) -> None:
    allowed(simulator, _file(account, "T/acme/run_1/orders.csv"))
    for key in ("T/globex/x", "T/acme-2/x", "T/acme", "acme/x", "x", "T/ACME/x"):
        refused(simulator, _file(account, key))
    refused(simulator, _file(account, "T/acme/x", context={}))
    for action in ("GetObject", "DeleteObject", "GetObjectVersion", "PutObjectAcl", "BypassGovernanceRetention"):
        refused(simulator, _file(account, "T/acme/x", f"s3:{action}"))
    refused(simulator, Request("tenant_data", "s3:ListBucket", _bucket(account), ACME))


def test_no_function_reaches_the_bucket_with_its_own_role(simulator: Simulator, account: Account) -> None:
    actions = ("s3:PutObject", "s3:GetObject", "s3:DeleteObject")
    for door in set(account.roles) - {"tenant_data"}:
        refused(simulator, *(Request(door, action, f"{_bucket(account)}/T/acme/x", ACME) for action in actions))


# --- secrets ----------------------------------------------------------------------------------------------------------


def _secret(place: str, action: str = "GetSecretValue", door: str = "tenant_data", **more: Any) -> Request:
    arn = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:keepgate/{place}-AbCdEf"
    return Request(door, f"secretsmanager:{action}", arn, more.pop("context", ACME), **more)


def test_a_tenants_session_reads_its_own_tenants_declared_secrets_and_no_others(simulator: Simulator) -> None:
    allowed(simulator, _secret("prod/T/acme/parcels-key"))
    for place in (
        *("prod/T/globex/parcels-key", "prod/T/acme-2/parcels-key", "prod/T/*/parcels-key", "prod/T/ACME/parcels-key"),
        *("prod/T/acme/other-key", "prod/T/acme/parcels-key-2", "prod/T/acme/U/ann/parcels-key", "prod/parcels-key"),
        *("prod/deployment/parcels-key", "dev/T/acme/parcels-key", "prod/T/acme/x/parcels-key"),
    ):
        refused(simulator, _secret(place))
    refused(simulator, _secret("prod/T/acme/parcels-key", context={}))
    for action in ("PutSecretValue", "UpdateSecret", "DeleteSecret", "DescribeSecret", "PutResourcePolicy"):
        refused(simulator, _secret("prod/T/acme/parcels-key", action))


def test_a_session_for_secrets_is_narrowed_to_the_calls_own(simulator: Simulator) -> None:
    ann = Principal(tenant_id="acme", user_id="ann", roles=frozenset())
    contract = TOOLS["parcels__track_parcel"].contract
    narrowed = json.loads(secrets_policy(contract, ann, "keepgate/prod"))
    allowed(simulator, _secret("prod/T/acme/parcels-key", session_policy=narrowed))
    without = json.loads(session_policy(contract))
    refused(simulator, _secret("prod/T/acme/parcels-key", session_policy=without))
    other = json.loads(secrets_policy(contract, ann.model_copy(update={"tenant_id": "globex"}), "keepgate/prod"))
    refused(simulator, _secret("prod/T/acme/parcels-key", session_policy=other))


def test_no_function_reads_a_secret_with_its_own_role(simulator: Simulator, account: Account) -> None:
    for door in set(account.roles) - {"tenant_data"}:
        refused(simulator, _secret("prod/T/acme/parcels-key", door=door))


# --- becoming a tenant ------------------------------------------------------------------------------------------------

TAGGED: dict[str, str | list[str]] = {"aws:RequestTag/tenant_id": "acme", "aws:TagKeys": ["tenant_id"]}


def _become(account: Account, door: str, action: str, context: Mapping[str, str | Sequence[str]]) -> Request:
    return Request(door, action, account.roles["tenant_data"], context, resource_policy=account.trust["tenant_data"])


def test_only_the_tool_function_becomes_a_tenant(simulator: Simulator, account: Account) -> None:
    for door, action in product(account.roles, ("sts:AssumeRole", "sts:TagSession")):
        (allowed if door == "run_tool" else refused)(simulator, _become(account, door, action, TAGGED))


def test_nobody_becomes_one_even_with_every_right_but_the_tool_function(simulator: Simulator, account: Account) -> None:
    everything = [{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:*", "Resource": "*"}]}]
    trust, role = account.trust["tenant_data"], account.roles["tenant_data"]
    # An account's own administrators can always change the trust; a role that merely has the right can't use it.
    for door in set(account.roles) - {"run_tool"}:
        asked = Request(door, "sts:AssumeRole", role, TAGGED, resource_policy=trust, policies=everything)
        refused(simulator, asked)


@pytest.mark.parametrize(
    "context",
    [
        {},
        {"aws:RequestTag/tenant_id": "", "aws:TagKeys": ["tenant_id"]},
        {"aws:RequestTag/user_id": "anna", "aws:TagKeys": ["user_id"]},
        {**TAGGED, "aws:RequestTag/user_id": "anna", "aws:TagKeys": ["tenant_id", "user_id"]},
        {"aws:TagKeys": ["tenant_id"]},
    ],
    ids=["no tag", "an empty one", "another", "one more", "its key alone"],
)
def test_a_session_without_exactly_a_tenant_is_refused(
    simulator: Simulator, account: Account, context: dict[str, Any]
) -> None:
    refused(simulator, *(_become(account, "run_tool", a, context) for a in ("sts:AssumeRole", "sts:TagSession")))


def test_no_role_becomes_any_other(simulator: Simulator, account: Account) -> None:
    for door, other in product(account.roles, set(account.roles) - {"tenant_data"}):
        trust = account.trust[other]
        refused(simulator, Request(door, "sts:AssumeRole", account.roles[other], TAGGED, resource_policy=trust))


# --- functions --------------------------------------------------------------------------------------------------------


def test_each_role_invokes_exactly_the_functions_next_door(simulator: Simulator, account: Account) -> None:
    pairs = list(product(account.roles, account.functions))
    asked = [
        Request(door, "lambda:InvokeFunction", account.functions[f], resource_policy=account.locks.get(f))
        for door, f in pairs
    ]
    found: dict[str, set[str]] = {}
    for (door, function), is_allowed in zip(pairs, simulator.allowed(*asked), strict=True):
        if is_allowed:
            found.setdefault(door, set()).add(function)
    assert found == INVOKES


@pytest.mark.parametrize("function", LOCKED)
def test_the_locked_doors_refuse_every_other_principal_whatever_it_is_allowed(
    simulator: Simulator, account: Account, function: str
) -> None:
    everything = [{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}]
    callers = {door for door, functions in INVOKES.items() if function in functions}
    for door in account.roles:
        arn, lock = account.functions[function], account.locks[function]
        asked = Request(door, "lambda:InvokeFunction", arn, resource_policy=lock, policies=everything)
        [decision] = simulator.decide(asked)
        assert decision == ("Allowed" if door in callers else "ExplicitlyDenied"), door


@pytest.mark.parametrize("function", [*LOCKED, "administer"])
def test_a_locked_door_is_locked_under_each_of_its_names_and_in_each_way(
    simulator: Simulator, account: Account, function: str
) -> None:
    """`$LATEST` and versions are resources of their own, to which a deny of the bare function says nothing."""
    everything = [{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}]
    arn, lock = account.functions[function], account.locks[function]
    ways = product(("InvokeFunction", "InvokeAsync"), (arn, f"{arn}:$LATEST", f"{arn}:7"))
    refused(
        simulator,
        *(
            Request("stream_events", f"lambda:{action}", name, resource_policy=lock, policies=everything)
            for action, name in ways
        ),
    )


def test_without_its_lock_a_door_would_open_to_any_careless_right(simulator: Simulator, account: Account) -> None:
    """The guard broken on purpose."""
    everything = [{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}]
    allowed(simulator, Request("shim", "lambda:InvokeFunction", account.functions["run_tool"], policies=everything))


def test_no_role_changes_a_function_a_role_or_a_key(simulator: Simulator, account: Account) -> None:
    [key] = account.arns("AWS::KMS::Key").values()
    for door in account.roles:
        for function in account.functions.values():
            actions = ("UpdateFunctionCode", "UpdateFunctionConfiguration", "AddPermission", "GetFunction")
            refused(simulator, *(Request(door, f"lambda:{action}", function) for action in actions))
        actions = ("AttachRolePolicy", "PutRolePolicy", "UpdateAssumeRolePolicy", "PassRole")
        refused(simulator, *(Request(door, f"iam:{a}", account.roles["tenant_data"]) for a in actions))
        policy, actions = account.key_policy, ("PutKeyPolicy", "ScheduleKeyDeletion", "CreateGrant")
        refused(simulator, *(Request(door, f"kms:{action}", key, resource_policy=policy) for action in actions))


# --- models, queue, people, key ---------------------------------------------------------------------------------------


def test_the_agent_streams_from_the_pinned_models_through_their_profiles_and_nothing_else_of_bedrock(
    simulator: Simulator, account: Account
) -> None:
    stream, profile_key = "bedrock:InvokeModelWithResponseStream", "bedrock:InferenceProfileArn"
    for model in read_model_ids("support_desk"):
        profile = f"arn:aws:bedrock:{REGION}:{ACCOUNT}:inference-profile/{model}"
        foundation = f"arn:aws:bedrock:{REGION}::foundation-model/{model.partition('.')[2]}"
        through, past = {profile_key: profile}, {profile_key: f"{profile}-other"}
        allowed(simulator, Request("run_agent", stream, profile), Request("run_agent", stream, foundation, through))
        refused(simulator, Request("run_agent", stream, foundation), Request("run_agent", stream, foundation, past))
        refused(simulator, Request("run_agent", "bedrock:InvokeModel", profile))
        for door in set(account.roles) - {"run_agent"}:
            refused(simulator, Request(door, stream, profile), Request(door, stream, foundation, through))
    other = f"arn:aws:bedrock:{REGION}::foundation-model/anthropic.claude-opus-4-20250514-v1:0"
    refused(simulator, Request("run_agent", stream, other))


QUEUES = {
    "run_agent": {"SendMessage"},
    "sweep_runs": {"SendMessage"},
    "work_tool_queue": {
        *("SendMessage", "ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility", "GetQueueUrl"),
        "GetQueueAttributes",
    },
}
"""What doors do with the tool queue: CDK's event source takes and returns jobs in the worker's name."""


def test_each_role_does_with_the_queue_what_its_door_needs(simulator: Simulator, account: Account) -> None:
    queues = account.arns("AWS::SQS::Queue")
    [jobs] = [arn for name, arn in queues.items() if "DeadLetters" not in name]
    [dead] = set(queues.values()) - {jobs}
    actions = (*QUEUES["work_tool_queue"], "PurgeQueue", "SetQueueAttributes", "AddPermission", "DeleteQueue")
    for door in account.roles:
        asked = [Request(door, f"sqs:{action}", jobs) for action in actions]
        found = {a for a, is_allowed in zip(actions, simulator.allowed(*asked), strict=True) if is_allowed}
        assert found == QUEUES.get(door, set()), door
        refused(simulator, *(Request(door, f"sqs:{action}", dead) for action in actions))


def test_only_the_agent_asks_who_people_are_and_nobody_changes_them(simulator: Simulator, account: Account) -> None:
    [pool] = account.arns("AWS::Cognito::UserPool").values()
    reading = ("AdminGetUser", "AdminListGroupsForUser", "ListUsers")
    changing = ("AdminUpdateUserAttributes", "AdminAddUserToGroup", "AdminCreateUser", "AdminSetUserPassword")
    for door in account.roles:
        ask = allowed if door == "run_agent" else refused
        ask(simulator, *(Request(door, f"cognito-idp:{action}", pool) for action in reading))
        refused(simulator, *(Request(door, f"cognito-idp:{action}", pool) for action in changing))


def test_the_key_opens_nothing_but_through_the_services_that_encrypt_with_it(
    simulator: Simulator, account: Account
) -> None:
    via = {service: {"kms:ViaService": f"{service}.{REGION}.amazonaws.com"} for service in ("dynamodb", "s3", "sqs")}
    doors = {door for door, _ in TABLES}
    for door in account.roles:
        by_service = {name: _decrypt(account, door, context) for name, context in via.items()}
        decisions = dict(zip(by_service, simulator.allowed(*by_service.values()), strict=True))
        assert decisions == {"dynamodb": door in doors, "s3": door == "tenant_data", "sqs": False}, door
        elsewhere = {"kms:ViaService": "dynamodb.us-east-1.amazonaws.com"}
        refused(simulator, _decrypt(account, door, {}), _decrypt(account, door, elsewhere))


def _decrypt(account: Account, door: str, context: Mapping[str, str]) -> Request:
    [key] = account.arns("AWS::KMS::Key").values()
    return Request(door, "kms:Decrypt", key, context, resource_policy=account.key_policy)
