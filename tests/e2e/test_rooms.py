"""The walls between the rooms, attacked with the emulator's IAM enforced: who may call and read what, and who not.

The emulator lacks resource policies that deny (AWS has them here too): those are proved on the templates. What is shown
here is that no identity has a grant it should not have.
"""

import json
import os
import secrets
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError

from tests.e2e.running_cloud import RunningCloud

LOCKED = ("AgentFunction", "ToolFunction")
DENIED = {"AccessDenied", "AccessDeniedException"}


def refused(call: Callable[[], Any]) -> bool:
    with pytest.raises(ClientError) as error:
        call()
    return error.value.response["Error"]["Code"] in DENIED


@pytest.mark.parametrize("function", LOCKED)
def test_who_has_no_aws_credentials_invokes_no_function(cloud: RunningCloud, function: str) -> None:
    # Without the bearer token: AWS takes that for no signature either, the emulator takes it for its root user's.
    url = f"{cloud.aws_url}/2015-03-31/functions/{cloud.output(function)}/invocations"
    assert httpx.post(url, json={}).status_code == 403


@pytest.mark.parametrize("function", LOCKED)
def test_a_signed_in_user_has_no_way_to_a_locked_function(cloud: RunningCloud, function: str) -> None:
    """No function URL, no identity pool that would give AWS credentials for a token, no route of the API."""
    with pytest.raises(ClientError) as missing:
        cloud.aws("lambda").get_function_url_config(FunctionName=cloud.output(function))
    assert missing.value.response["Error"]["Code"] == "ResourceNotFoundException"
    assert cloud.aws("cognito-identity").list_identity_pools(MaxResults=10)["IdentityPools"] == []
    gateway = cloud.aws("apigateway")
    api_id = cloud.url.split("/")[-2]
    arns = [
        method["methodIntegration"]["uri"]
        for resource in gateway.get_resources(restApiId=api_id, embed=["methods"])["items"]
        for method in resource.get("resourceMethods", {}).values()
        if method.get("methodIntegration", {}).get("uri")
    ]
    assert arns
    assert not any(f":{cloud.output(function)}/" in arn for arn in arns)


@pytest.mark.parametrize("function", LOCKED)
def test_an_iam_user_without_the_grant_invokes_no_function(cloud: RunningCloud, function: str) -> None:
    iam = cloud.aws("iam")
    name = f"stranger-{secrets.token_hex(4)}"
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    stranger = cloud.aws("lambda", aws_access_key_id=key["AccessKeyId"], aws_secret_access_key=key["SecretAccessKey"])
    assert refused(lambda: stranger.invoke(FunctionName=cloud.output(function), Payload=b"{}"))


@pytest.mark.parametrize(
    ("caller", "function"),
    [
        ("ShimFunction", "ToolFunction"),
        ("ToolFunction", "ToolFunction"),
        ("ToolFunction", "AgentFunction"),
        ("AgentFunction", "ShimFunction"),
    ],
)
def test_a_functions_role_invokes_no_function_but_those_it_must(
    cloud: RunningCloud, caller: str, function: str
) -> None:
    room = cloud.as_role("lambda", cloud.role_of(caller))
    assert refused(lambda: room.invoke(FunctionName=cloud.output(function), Payload=b"{}"))


@pytest.mark.parametrize("room", ["AgentFunction", "ToolFunction", "ShimFunction"])
def test_no_functions_own_role_reads_tenant_data(cloud: RunningCloud, room: str) -> None:
    dynamodb, table = cloud.as_role("dynamodb", cloud.role_of(room)), cloud.output("TenantTable")
    key = {"pk": {"S": "T#acme"}, "sk": {"S": "order#1001"}}
    assert cloud.aws("dynamodb").get_item(TableName=table, Key=key).get("Item"), "the item is there"
    assert refused(lambda: dynamodb.get_item(TableName=table, Key=key))
    assert refused(lambda: dynamodb.scan(TableName=table))
    assert refused(lambda: dynamodb.put_item(TableName=table, Item=key))
    assert refused(lambda: dynamodb.execute_statement(Statement=f'SELECT * FROM "{table}"'))


DOORS = ("shim", "stream-events", "add-claims", "run-agent", "run-tool", "work-tool-queue", "sweep-runs")
INVOKES = {
    "shim": {"run-agent"},
    "run-agent": {"run-agent", "run-tool", "sweep-runs"},
    "work-tool-queue": {"run-agent", "run-tool"},
    "sweep-runs": {"run-agent"},
}
"""As in tests/infrastructure/test_rights.py: who may invoke whom."""


def as_door(cloud: RunningCloud, service: str, door: str) -> Any:
    """Return a client with the rights of a door's role."""
    found = cloud.aws("lambda").get_function_configuration(FunctionName=f"keepgate-local-{door}")
    return cloud.as_role(service, found["Role"])


@pytest.mark.parametrize("door", DOORS)
def test_each_role_invokes_the_functions_next_door_and_no_others(cloud: RunningCloud, door: str) -> None:
    room = as_door(cloud, "lambda", door)
    for other in set(DOORS) - INVOKES.get(door, set()):
        invoke = partial(room.invoke, FunctionName=f"keepgate-local-{other}", InvocationType="Event", Payload=b"{}")
        assert refused(invoke), other
        assert refused(partial(room.update_function_configuration, FunctionName=f"keepgate-local-{other}", Timeout=1))


@pytest.mark.parametrize("door", DOORS)
def test_no_door_reaches_the_bucket_or_changes_people_or_rights(cloud: RunningCloud, door: str) -> None:
    s3, bucket = as_door(cloud, "s3", door), cloud.output("FilesBucket")
    assert refused(lambda: s3.put_object(Bucket=bucket, Key="T/acme/e2e/y.txt", Body=b"y"))
    assert refused(lambda: s3.list_objects_v2(Bucket=bucket))
    people, pool = as_door(cloud, "cognito-idp", door), cloud.output("UserPoolId")
    grown = {"UserPoolId": pool, "Username": "acme-user", "GroupName": "operator"}
    assert refused(lambda: people.admin_add_user_to_group(**grown))
    elsewhere = [{"Name": "custom:tenant_id", "Value": "globex"}]
    change = {"UserPoolId": pool, "Username": "acme-user", "UserAttributes": elsewhere}
    assert refused(lambda: people.admin_update_user_attributes(**change))
    iam, role = as_door(cloud, "iam", door), cloud.output("DataRoleArn").rpartition("/")[2]
    assert refused(lambda: iam.put_role_policy(RoleName=role, PolicyName="all", PolicyDocument="{}"))
    if door not in {"run-agent", "work-tool-queue", "sweep-runs"}:
        sqs, queue = as_door(cloud, "sqs", door), cloud.output("ToolQueueUrl")
        assert refused(lambda: sqs.send_message(QueueUrl=queue, MessageBody="{}"))


@pytest.mark.parametrize("room", ["AgentFunction", "ShimFunction"])
def test_only_the_tools_room_may_take_the_role_that_reads_tenant_data(cloud: RunningCloud, room: str) -> None:
    sts = cloud.as_role("sts", cloud.role_of(room))
    tags = [{"Key": "tenant_id", "Value": "acme"}]
    assert refused(lambda: sts.assume_role(RoleArn=cloud.output("DataRoleArn"), RoleSessionName="e2e", Tags=tags))


def test_the_tools_room_can_take_it_only_with_a_tenant(cloud: RunningCloud) -> None:
    sts = cloud.as_role("sts", cloud.output("ToolRoleArn"))
    role = cloud.output("DataRoleArn")
    assert refused(lambda: sts.assume_role(RoleArn=role, RoleSessionName="e2e"))
    user = {"Key": "user_id", "Value": "anna"}
    assert refused(lambda: sts.assume_role(RoleArn=role, RoleSessionName="e2e", Tags=[user]))
    acme = {"Key": "tenant_id", "Value": "acme"}
    assert refused(lambda: sts.assume_role(RoleArn=role, RoleSessionName="e2e", Tags=[acme, user]))
    assert sts.assume_role(RoleArn=role, RoleSessionName="e2e", Tags=[acme])["Credentials"]


def test_a_tenants_session_reaches_its_own_items_and_no_others(cloud: RunningCloud) -> None:
    sts = cloud.as_role("sts", cloud.output("ToolRoleArn"))
    tags = [{"Key": "tenant_id", "Value": "acme"}]
    given = sts.assume_role(RoleArn=cloud.output("DataRoleArn"), RoleSessionName="e2e", Tags=tags)["Credentials"]
    session = {
        "aws_access_key_id": given["AccessKeyId"],
        "aws_secret_access_key": given["SecretAccessKey"],
        "aws_session_token": given["SessionToken"],
    }
    dynamodb, table = cloud.aws("dynamodb", **session), cloud.output("TenantTable")

    def key(tenant: str) -> dict[str, Any]:
        return {"pk": {"S": f"T#{tenant}"}, "sk": {"S": "order#1001"}}

    def query(tenant: str) -> dict[str, Any]:
        return {"KeyConditionExpression": "pk = :pk", "ExpressionAttributeValues": {":pk": {"S": f"T#{tenant}"}}}

    assert dynamodb.get_item(TableName=table, Key=key("acme"))["Item"]
    assert dynamodb.query(TableName=table, **query("acme"))["Items"]
    assert refused(lambda: dynamodb.get_item(TableName=table, Key=key("globex")))
    assert refused(lambda: dynamodb.query(TableName=table, **query("globex")))
    assert refused(lambda: dynamodb.put_item(TableName=table, Item=key("globex")))
    assert refused(lambda: dynamodb.scan(TableName=table))
    assert refused(lambda: dynamodb.update_item(TableName=table, Key=key("globex")))
    assert refused(lambda: dynamodb.delete_item(TableName=table, Key=key("acme")))
    both = {table: {"Keys": [key("acme"), key("globex")]}}
    assert refused(lambda: dynamodb.batch_get_item(RequestItems=both))
    assert refused(lambda: dynamodb.batch_write_item(RequestItems={table: [{"PutRequest": {"Item": key("globex")}}]}))
    reads = [{"Get": {"TableName": table, "Key": key("globex")}}]
    assert refused(lambda: dynamodb.transact_get_items(TransactItems=reads))
    writes = [{"Put": {"TableName": table, "Item": key("globex")}}]
    assert refused(lambda: dynamodb.transact_write_items(TransactItems=writes))
    assert refused(lambda: dynamodb.execute_statement(Statement=f"SELECT * FROM \"{table}\" WHERE pk = 'T#acme'"))
    arn = cloud.aws("dynamodb").describe_table(TableName=table)["Table"]["TableArn"]
    assert refused(lambda: dynamodb.export_table_to_point_in_time(TableArn=arn, S3Bucket="elsewhere"))
    assert refused(lambda: dynamodb.get_item(TableName=cloud.output("RunsTable"), Key=key("acme")))
    s3, bucket = cloud.aws("s3", **session), cloud.output("FilesBucket")
    assert s3.put_object(Bucket=bucket, Key="T/acme/e2e/x.txt", Body=b"x")
    assert refused(lambda: s3.put_object(Bucket=bucket, Key="T/globex/e2e/x.txt", Body=b"x"))
    assert refused(lambda: s3.get_object(Bucket=bucket, Key="T/acme/e2e/x.txt"))
    assert refused(lambda: s3.list_objects_v2(Bucket=bucket))


def test_the_peoples_room_has_no_ledger_and_the_tools_room_writes_no_log(cloud: RunningCloud) -> None:
    shim = cloud.as_role("dynamodb", cloud.role_of("ShimFunction"))
    assert refused(lambda: shim.get_item(TableName=cloud.output("LedgerTable"), Key={"pk": {"S": "x"}}))
    tool = cloud.as_role("dynamodb", cloud.output("ToolRoleArn"))
    assert refused(lambda: tool.put_item(TableName=cloud.output("RunsTable"), Item={"pk": {"S": "x"}}))


def test_a_tool_job_for_a_call_nobody_decided_is_refused(cloud: RunningCloud) -> None:
    agent = cloud.as_role("lambda", cloud.output("AgentRoleArn"))
    with cloud.api("acme-user") as acme:
        run_id = acme.ask("Where is order 1001?")
        acme.wait(run_id)
    for tenant, run, call in (
        ("acme", run_id, "call_9_9"),
        ("acme", run_id, "call_1_0"),  # decided, and over
        ("globex", run_id, "call_1_0"),
        ("acme", "run_01ARZ3NDEKTSV4RRFFQ69G5FAV", "call_1_0"),
    ):
        job = {"tenant_id": tenant, "run_id": run, "call_id": call, "traceparent": None}
        answer = agent.invoke(FunctionName=cloud.output("ToolFunction"), Payload=json.dumps(job).encode())
        assert "FunctionError" not in answer
        assert json.loads(answer["Payload"].read())["refused"] == "call_not_decided"


def test_one_warm_process_serves_two_tenants_each_its_own(cloud: RunningCloud) -> None:
    for pid in cloud.workers("run_tool"):
        os.kill(pid, signal.SIGKILL)
    names = {"acme": "Marta Keller", "globex": "Oliver Grant"}
    served, processes = [], set()
    with cloud.api("acme-user") as acme, cloud.api("globex-user") as globex:
        acme.wait(acme.ask("Where is order 1001?"))  # which may meet one of the dead
        for tenant, api in (("acme", acme), ("acme", acme), ("globex", globex), ("acme", acme), ("globex", globex)):
            run_id = api.ask("Where is order 1001?")
            api.wait(run_id)
            served.append((tenant, json.dumps(cloud.log(tenant, run_id))))
            processes.add(tuple(cloud.workers("run_tool")))
    assert len(processes) == 1, "the same process, all the time"
    [[_]] = processes
    for tenant, stored in served:
        [other] = set(names) - {tenant}
        assert names[tenant] in stored
        assert names[other] not in stored
    # Where functions may write; what Python wrote there is the code, the example's people included.
    files = [path for path in (cloud.state / "tmp").rglob("*") if path.is_file() and not path.suffix.startswith(".py")]
    assert not [path for path in files if any(name.encode() in path.read_bytes() for name in names.values())]
