"""Who may do what: each role has what its door uses, the rooms stay apart, and every wildcard has its reason here."""

import json
from collections import defaultdict
from typing import Any

import pytest

from agent import audit
from agent.controls import Board
from agent.limits import LimitScope
from stacks.contracts import read_rights
from tests.infrastructure.templates import Deployment, Statement, as_list, flat

WILDCARDS = {
    ("xray:PutTelemetryRecords", "*"): "X-Ray knows no resources",
    ("xray:PutTraceSegments", "*"): "X-Ray knows no resources",
    ("s3:PutObject", "<FilesArn>/T/${aws:PrincipalTag/tenant_id}/*"): "objects have names; the tag pins the tenant",
}
INVOKES = {
    "gateway": {"shim", "stream_events"},
    "shim": {"run_agent"},
    "run_agent": {"run_tool", "sweep_runs", "run_agent"},
    "work_tool_queue": {"run_tool", "run_agent"},
    "sweep_runs": {"run_agent"},
}
"""Who may invoke whom; nobody else may invoke anybody."""
LOCKED = ("shim", "stream_events", "run_agent", "run_tool")
"""Whose resource policies refuse all others, whatever rights those have."""
TABLES = {
    ("shim", "Runs"): {"GetItem", "BatchGetItem", "Query", "PutItem", "UpdateItem"},
    ("stream_events", "Runs"): {"GetItem", "Query"},
    ("run_agent", "Runs"): {"GetItem", "BatchGetItem", "Query", "PutItem", "UpdateItem", "DeleteItem"},
    ("run_agent", "Ledger"): {"BatchGetItem", "Query", "PutItem", "UpdateItem"},
    ("run_agent", "Control"): {"GetItem", "UpdateItem", "BatchGetItem"},
    ("work_tool_queue", "Control"): {"GetItem", "UpdateItem", "BatchGetItem"},
    ("run_tool", "Progress"): {"PutItem"},
    ("work_tool_queue", "Progress"): {"Query"},
    ("run_tool", "Runs"): {"GetItem", "Query"},
    ("run_tool", "Control"): {"GetItem", "PutItem"},
    ("work_tool_queue", "Runs"): {"GetItem", "Query", "PutItem", "UpdateItem", "DeleteItem"},
    ("sweep_runs", "Runs"): {"GetItem", "BatchGetItem", "Query", "PutItem", "UpdateItem", "DeleteItem"},
    ("sweep_runs", "Ledger"): {"Query", "PutItem", "UpdateItem"},
    ("sweep_runs", "Control"): {"BatchGetItem"},
    ("shim", "Ledger"): {"BatchGetItem"},
    **{(door, "Control"): {"BatchGetItem", "PutItem", "Query"} for door in ("shim", "administer")},
    ("tenant_data", "TenantData"): {a.removeprefix("dynamodb:") for a in read_rights("support_desk").data_actions},
}
"""What each role may do with which table, and no other role with any."""


@pytest.fixture
def statements(deployment: Deployment) -> list[Statement]:
    return list(deployment.statements())


def test_every_wildcard_has_its_reason(statements: list[Statement]) -> None:
    found = {
        (action, resource)
        for statement in statements
        for action in statement.actions
        for resource in statement.resources
        if "*" in action or "*" in resource
    }
    assert found == set(WILDCARDS)


def test_no_role_carries_a_managed_policy_but_the_gateways_log_role(deployment: Deployment) -> None:
    managed = [flat(p) for role in deployment.of_type("AWS::IAM::Role") for p in role.get("ManagedPolicyArns", [])]
    assert managed == ["arn:<AWS::Partition>:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs"]
    assert not any("Policies" in role for role in deployment.of_type("AWS::IAM::Role"))


def test_each_role_uses_exactly_the_tables_and_actions_of_its_door(statements: list[Statement]) -> None:
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for statement in statements:
        for resource in statement.resources:
            for table in ("Runs", "Ledger", "Control", "TenantData", "Progress"):
                if resource.startswith(f"<ExportsOutputFnGetAtt{table}") and "/index/" not in resource:
                    found[statement.door, table] |= {a.removeprefix("dynamodb:") for a in statement.actions}
    assert found == TABLES


def test_who_changes_or_lists_what_in_the_control_table_is_pinned_by_its_keys(statements: list[Statement]) -> None:
    """The rooms that run agents change breakers; each kind of operators what is theirs, and neither the other's."""
    control = [s for s in statements if any("Control" in resource for resource in s.resources)]
    found = {
        (s.door, frozenset(a.removeprefix("dynamodb:") for a in s.actions)): s.conditions
        for s in control
        if s.actions != {"dynamodb:BatchGetItem"}
    }
    breakers, put, query = frozenset({"GetItem", "UpdateItem"}), frozenset({"PutItem"}), frozenset({"Query"})
    assert found == {
        ("run_agent", breakers): pinned("BREAKER#*"),
        ("work_tool_queue", breakers): pinned("BREAKER#*"),
        ("run_tool", frozenset({"GetItem", "PutItem"})): pinned("STOPPED"),
        ("shim", put): pinned("SWITCH#BY#*", "OWN_LIMIT#*", "AUDIT#T#*"),
        ("shim", query): pinned("AUDIT#T#*"),
        ("administer", put): pinned("SWITCH#PLATFORM", "SWITCH#ON#*", "LIMIT", "LIMIT#*", "AUDIT#*"),
        ("administer", query): pinned("AUDIT#*", "STOPPED"),
    }


def test_the_keys_that_are_pinned_are_those_the_code_writes() -> None:
    own, platform = ["SWITCH#BY#", "OWN_LIMIT#", "AUDIT#T#"], ["SWITCH#PLATFORM", "SWITCH#ON#", "LIMIT", "AUDIT#"]
    for key in (Board("acme", by_tenant=True).key, LimitScope("acme", "ann", by_tenant=True).key, audit.key("acme")):
        assert key.startswith(tuple(own)), key
    for key in (Board().key, Board("acme").key, LimitScope().key, LimitScope("acme").key, audit.key("")):
        assert key.startswith(tuple(platform)), key
        assert not key.startswith(tuple(own)), key


def test_people_see_accounts_of_users_and_tenants_and_not_the_platforms(statements: list[Statement]) -> None:
    [looking] = [s for s in statements if s.door == "shim" and any("Ledger" in resource for resource in s.resources)]
    assert looking.conditions == pinned("B#user#*", "B#tenant#*")


def pinned(*keys: str) -> dict[str, Any]:
    return {
        "ForAllValues:StringLike": {"dynamodb:LeadingKeys": list(keys)},
        "Null": {"dynamodb:LeadingKeys": "false"},
    }


def test_nobody_may_operate_the_platform_until_given_the_policy_and_no_room_ever(deployment: Deployment) -> None:
    [policy] = deployment.of_type("AWS::IAM::ManagedPolicy")
    assert not {"Users", "Roles", "Groups"} & set(policy)
    [statement] = policy["PolicyDocument"]["Statement"]
    assert statement["Action"] == "lambda:InvokeFunction"
    locks = [json.dumps(lock) for lock in deployment.of_type("AWS::Lambda::ResourcePolicy")]
    if deployment.stage.emulated:
        return
    [lock] = [lock for lock in locks if "NoRoomOperatesThePlatform" in lock]
    for door in deployment.functions():
        assert door == "administer" or deployment.stage.resource_name(door) in lock, door


def test_indexes_are_only_queried_and_only_by_the_doors_that_list_runs(statements: list[Statement]) -> None:
    found = {
        (s.door, resource.partition("/index/")[2]): set(s.actions)
        for s in statements
        for resource in s.resources
        if "/index/" in resource
    }
    listed = [("shim", "by_user"), ("shim", "by_approval"), ("sweep_runs", "by_due")]
    assert found == {key: {"dynamodb:Query"} for key in listed}


def test_the_agent_asks_who_people_are_of_its_own_pool_and_nobody_else_does(statements: list[Statement]) -> None:
    [asking] = [s for s in statements if any(a.startswith("cognito-idp:") for a in s.actions)]
    assert asking.door == "run_agent"
    assert asking.actions == {"cognito-idp:AdminGetUser", "cognito-idp:AdminListGroupsForUser", "cognito-idp:ListUsers"}
    [pool] = asking.resources
    assert ":ExportsOutputFnGetAttSignInPool" in pool


def test_functions_invoke_only_the_functions_next_door(deployment: Deployment, statements: list[Statement]) -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for statement in statements:
        if statement.actions & {"lambda:InvokeFunction", "lambda:InvokeAsync", "lambda:*"}:
            assert statement.actions == {"lambda:InvokeFunction"}
            found[statement.door] |= {_invoked(resource, deployment) for resource in statement.resources}
    assert found == INVOKES


def _invoked(arn: str, deployment: Deployment) -> str:
    if arn.startswith("<AWS::Lambda::Function"):  # the one function that is named by reference
        return "sweep_runs"
    return deployment.door_of(arn.rpartition(":function:")[2])


def test_only_the_models_room_reaches_a_model_and_only_the_pinned_ones(statements: list[Statement]) -> None:
    all_of_bedrock = [s for s in statements if any(a.startswith("bedrock:") for a in s.actions)]
    guardrails = [s for s in all_of_bedrock if s.actions == {"bedrock:ApplyGuardrail"}]
    assert {s.door for s in guardrails} <= {"run_agent"}
    assert {r for s in guardrails for r in s.resources} <= {"<AWS::Bedrock::Guardrail.GuardrailArn>"}
    bedrock = [s for s in all_of_bedrock if s not in guardrails]
    assert {s.door for s in bedrock} == {"run_agent"}
    assert {action for s in bedrock for action in s.actions} == {"bedrock:InvokeModelWithResponseStream"}
    found: dict[str, set[str]] = {}
    for statement in bedrock:
        if statement.conditions:
            [profile] = statement.conditions["StringEquals"].values()
            # The local stage knows its region.
            found[flat(profile)] = {r.replace("<AWS::Region>", "us-east-1") for r in statement.resources}
    profiles = {r for statement in bedrock if not statement.conditions for r in statement.resources}
    assert profiles == set(found)
    by_model = {profile.rpartition("/global.")[2]: models for profile, models in found.items()}
    assert by_model == {
        model: {
            f"arn:<AWS::Partition>:bedrock:us-east-1::foundation-model/{model}",
            f"arn:<AWS::Partition>:bedrock:::foundation-model/{model}",
        }
        for model in ("anthropic.claude-haiku-4-5-20251001-v1:0", "anthropic.claude-sonnet-4-5-20250929-v1:0")
    }


def test_only_the_tool_function_may_become_a_tenant_and_only_with_its_tag(
    deployment: Deployment, statements: list[Statement]
) -> None:
    assuming = [s for s in statements if any(a.startswith("sts:") for a in s.actions)]
    assert [(s.door, sorted(s.actions)) for s in assuming] == [("run_tool", ["sts:AssumeRole", "sts:TagSession"])]
    template = deployment["Agent"]
    [data] = [r for r in template.properties("AWS::IAM::Role") if flat(r["RoleName"]).find("-tenant-data-") > 0]
    [trust] = data["AssumeRolePolicyDocument"]["Statement"]
    trusted = template.document["Resources"][trust["Principal"]["AWS"]["Fn::GetAtt"][0]]
    assert "run-tool" in flat(trusted["Properties"]["RoleName"])
    assert sorted(trust["Action"]) == ["sts:AssumeRole", "sts:TagSession"]
    assert trust["Condition"] == {
        "StringLike": {"aws:RequestTag/tenant_id": "?*"},
        "ForAllValues:StringEquals": {"aws:TagKeys": ["tenant_id"]},
    }


def test_tenant_data_is_pinned_to_the_sessions_tag_and_a_request_without_a_key_is_refused(
    statements: list[Statement],
) -> None:
    [data] = [s for s in statements if any("TenantData" in r for r in s.resources)]
    assert data.door == "tenant_data"
    assert data.conditions == {
        "ForAllValues:StringEquals": {"dynamodb:LeadingKeys": ["T#${aws:PrincipalTag/tenant_id}"]},
        "Null": {"dynamodb:LeadingKeys": "false"},
    }
    assert not any(word in a for a in data.actions for word in ("Scan", "PartiQL", "Export", "Batch", "Delete"))


def test_secrets_are_read_by_tenants_sessions_alone_each_tenants_by_its_own_and_only_those_of_contracts(
    deployment: Deployment, statements: list[Statement]
) -> None:
    reading = [s for s in statements if any(a.startswith("secretsmanager:") for a in s.actions)]
    assert {s.door for s in reading} == {"tenant_data"}
    assert {action for s in reading for action in s.actions} == {"secretsmanager:GetSecretValue"}
    found = {resource.partition(":secret:")[2] for s in reading for resource in s.resources}
    place = f"keepgate/{deployment.stage.name}/T/${{aws:PrincipalTag/tenant_id}}"
    assert found == {f"{place}/parcels-key-??????"}


def test_only_tenants_sessions_reach_the_bucket(statements: list[Statement]) -> None:
    files = [s for s in statements if any("Files" in resource for resource in s.resources)]
    assert {s.door for s in files} == {"tenant_data"}
    assert {action for s in files for action in s.actions} == {"s3:PutObject"}


def test_the_key_is_used_only_through_the_services_that_encrypt_with_it(statements: list[Statement]) -> None:
    for statement in statements:
        if any(action.startswith("kms:") for action in statement.actions):
            service = flat(statement.conditions["StringEquals"]["kms:ViaService"])
            assert service.partition(".")[0] in {"dynamodb", "s3", "secretsmanager"}


def test_whom_the_stage_lets_in_as_a_service_acts_for_this_account_alone(prod: Deployment) -> None:
    """The confused deputy: a service works for everybody, and its principal is the same for all."""
    policies = [
        *(key["KeyPolicy"] for key in prod.of_type("AWS::KMS::Key")),
        *(topic["PolicyDocument"] for topic in prod.of_type("AWS::SNS::TopicPolicy")),
    ]
    services = [s for policy in policies for s in policy["Statement"] if "Service" in as_list(s["Principal"])[0]]
    assert len(services) == 2
    for statement in services:
        assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}


def test_the_doors_of_the_rooms_are_locked_for_all_but_the_named_roles(prod: Deployment) -> None:
    found = {}
    policies = [(t, policy) for t in prod.parts.values() for policy in t.properties("AWS::Lambda::ResourcePolicy")]
    for template, policy in policies:
        [deny] = policy["PolicyDocument"]["Statement"]
        assert (deny["Effect"], deny["Principal"]) == ("Deny", {"AWS": "*"})
        assert set(deny["Action"]) == {"lambda:InvokeFunction", "lambda:InvokeAsync"}
        assert deny["Resource"] == [policy["ResourceArn"], {"Fn::Join": ["", [policy["ResourceArn"], ":*"]]}]
        logical_id = policy["ResourceArn"]["Fn::GetAtt"][0]
        locked = template.document["Resources"][logical_id]["Properties"]["FunctionName"]
        [(test, condition)] = deny["Condition"].items()
        if prod.door_of(locked) == "administer":
            continue
        assert test == "ArnNotEquals"
        found[prod.door_of(locked)] = {_role(arn) for arn in as_list(condition["aws:PrincipalArn"])}
    callers = {door: {caller for caller in INVOKES if door in INVOKES[caller]} for door in LOCKED}
    assert found == callers


def _role(arn: Any) -> str:
    text = flat(arn)
    assert text.startswith("arn:<AWS::Partition>:iam::<AWS::AccountId>:role/keepgate-prod-")
    return text.partition("role/keepgate-prod-")[2].removesuffix("-<AWS::Region>").replace("-", "_")


def test_no_service_may_invoke_a_room_and_none_is_reachable_by_url(deployment: Deployment) -> None:
    assert "AWS::Lambda::Url" not in deployment.types()
    allowed = defaultdict(set)
    for template in deployment.parts.values():
        functions = template.of_type("AWS::Lambda::Function")
        for permission in template.properties("AWS::Lambda::Permission"):
            name = permission["FunctionName"]["Fn::GetAtt"][0]
            assert "SourceArn" in permission
            allowed[functions[name]["Properties"]["FunctionName"]].add(permission["Principal"])
    prefix = f"keepgate-{deployment.stage.name}"
    assert allowed == {
        f"{prefix}-add-claims": {"cognito-idp.amazonaws.com"},
        f"{prefix}-sweep-runs": {"events.amazonaws.com"},
    }


def test_roles_are_assumed_by_lambda_alone_beside_the_data_role_and_the_gateways_two(deployment: Deployment) -> None:
    services = [
        json.dumps(statement["Principal"])
        for role in deployment.of_type("AWS::IAM::Role")
        for statement in role["AssumeRolePolicyDocument"]["Statement"]
        if "Service" in statement["Principal"]
    ]
    assert sorted(set(services)) == ['{"Service": "apigateway.amazonaws.com"}', '{"Service": "lambda.amazonaws.com"}']
    assert len(services) == 10
