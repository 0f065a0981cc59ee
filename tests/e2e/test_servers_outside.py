"""A server outside, from the question to its answer: through the gate, and with the tenant's own key."""

import json
import secrets
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.e2e.running_cloud import Api, RunningCloud, marker

NUMBER = "JD014600007919"
REFUSED = {"AccessDenied", "AccessDeniedException"}


def secret_of(tenant: str) -> str:
    return f"keepgate/local/T/{tenant}/parcels-key"


def test_a_parcel_is_tracked_at_the_carriers_server_with_the_tenants_own_key(
    cloud: RunningCloud, acme: Api, globex: Api
) -> None:
    answers = []
    for tenant, api in (("acme", acme), ("globex", globex)):
        run_id = api.ask(f"Please track parcel {NUMBER}.")
        result = api.wait(run_id)
        assert result["reason"] == "answered", result
        assert NUMBER in result["answer"]
        [done] = [event for event in cloud.log(tenant, run_id) if event.get("type") == "tool.completed"]
        assert (done["tool"], done["outcome"]) == ("parcels__track_parcel", "ok")
        answers.append(json.loads(done["content"])["data"]["asked"])
        key = cloud.aws("secretsmanager").get_secret_value(SecretId=secret_of(tenant))["SecretString"]
        assert key not in json.dumps(cloud.log(tenant, run_id))
        assert key not in (cloud.state / "emulator.log").read_text()
        assert key not in (cloud.state / "traces.jsonl").read_text()
    assert answers[1] > answers[0], "the server saw two requests, each with a key of its own"


def test_what_came_from_outside_lets_no_second_request_out_without_a_person(cloud: RunningCloud, acme: Api) -> None:
    asked = marker()
    call = {"tool": "parcels__track_parcel", "input_json": json.dumps({"tracking_number": NUMBER})}
    cloud.tell_model(asked, {"calls": [call]}, {"calls": [call]})
    run_id = acme.ask(f"Again and again {asked}")
    record = acme.wait_until(run_id, "waiting")
    assert record["tools_called"]
    decisions = [d for event in cloud.log("acme", run_id) for d in event.get("decisions", [])]
    assert [decision["verdict"] for decision in decisions] == ["allow", "ask"]
    acme.http.post(f"/runs/{run_id}/cancel")
    acme.wait(run_id)


def session(cloud: RunningCloud, tenant: str) -> Any:
    sts = cloud.as_role("sts", cloud.output("ToolRoleArn"))
    tags = [{"Key": "tenant_id", "Value": tenant}]
    given = sts.assume_role(RoleArn=cloud.output("DataRoleArn"), RoleSessionName="e2e", Tags=tags)["Credentials"]
    return cloud.aws(
        "secretsmanager",
        aws_access_key_id=given["AccessKeyId"],
        aws_secret_access_key=given["SecretAccessKey"],
        aws_session_token=given["SessionToken"],
    )


def refused(client: Any, name: str) -> bool:
    with pytest.raises(ClientError) as error:
        client.get_secret_value(SecretId=name)
    return error.value.response["Error"]["Code"] in REFUSED


def test_a_tenants_session_reads_its_own_secret_and_no_other(cloud: RunningCloud) -> None:
    root = cloud.aws("secretsmanager")
    other = f"keepgate/local/T/acme/other-{secrets.token_hex(4)}"
    root.create_secret(Name=other, SecretString="what no contract lists")
    acme, globex = session(cloud, "acme"), session(cloud, "globex")
    for own, name in ((acme, secret_of("acme")), (globex, secret_of("globex"))):
        assert (
            own.get_secret_value(SecretId=name)["SecretString"] == root.get_secret_value(SecretId=name)["SecretString"]
        )
    assert refused(globex, secret_of("acme"))
    assert refused(acme, secret_of("globex"))
    assert refused(acme, other)
    assert refused(acme, "keepgate/local/T/acme/U/ann/parcels-key")


@pytest.mark.parametrize("role", ["AgentFunction", "ToolFunction", "ShimFunction"])
def test_no_functions_own_role_reads_a_secret(cloud: RunningCloud, role: str) -> None:
    assert refused(cloud.as_role("secretsmanager", cloud.role_of(role)), secret_of("acme"))
