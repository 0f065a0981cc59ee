"""What holds for the templates of every stage: they lint, nothing is provisioned, data is safe, functions are apart."""

import json
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from cfnlint import api as cfn_lint

import app
from agent import contract_lock
from agent.errors import ConfigurationInvalid
from stacks import contracts
from stacks.config import STAGES, DeniedTopic
from stacks.contracts import read_rights
from tests.infrastructure.templates import Deployment, synthesize

CFN_LINT_ACCEPTED = {
    "W3005": "CDK makes a function depend on its role although it refers to it; that is redundant and harmless",
}
COSTS_WITHOUT_TRAFFIC = {
    "AWS::EC2::NatGateway",
    "AWS::EC2::VPC",
    "AWS::EC2::VPCEndpoint",
    "AWS::ElastiCache::ReplicationGroup",
    "AWS::KinesisFirehose::DeliveryStream",
    "AWS::OpenSearchService::Domain",
    "AWS::RDS::DBInstance",
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::SecretsManager::Secret",
}


@pytest.mark.filterwarnings("default")  # cfn-lint's own dependencies deprecate things
def test_cfn_lint_finds_nothing_that_is_not_accepted(deployment: Deployment) -> None:
    found = {
        (part, match.rule.id, match.message)
        for part, template in deployment.parts.items()
        for match in cfn_lint.lint(json.dumps(template.document), regions=["us-east-1", "eu-central-1"])
    }
    assert {finding for finding in found if finding[1] not in CFN_LINT_ACCEPTED} == set()


def test_a_synth_refuses_tools_that_are_not_the_reviewed_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(contract_lock, "read", lambda _: {})
    monkeypatch.setattr(sys, "argv", ["app.py", "--stage", "local"])
    monkeypatch.setenv("CDK_OUTDIR", str(tmp_path))
    with pytest.raises(ConfigurationInvalid, match="not as reviewed"):
        app.main()
    assert list(tmp_path.glob("*.template.json")) == []


def test_the_stacks_are_the_four_that_operators_know(deployment: Deployment) -> None:
    assert set(deployment.parts) == {"State", "Agent", "Edge", "Observability"}


def test_nothing_costs_money_by_the_hour_but_the_key_the_firewall_and_the_alarms(deployment: Deployment) -> None:
    assert deployment.types().isdisjoint(COSTS_WITHOUT_TRAFFIC)
    for function in deployment.functions().values():
        assert "VpcConfig" not in function
        assert "SnapStart" not in function
    for alias in deployment.of_type("AWS::Lambda::Alias") + deployment.of_type("AWS::Lambda::Version"):
        assert "ProvisionedConcurrencyConfig" not in alias
    [stage] = deployment.of_type("AWS::ApiGateway::Stage")
    assert not stage.get("CacheClusterEnabled", False)
    assert len(deployment.of_type("AWS::KMS::Key")) == 1


def test_every_table_is_on_demand_encrypted_recoverable_and_forgets(deployment: Deployment) -> None:
    tables = deployment.of_type("AWS::DynamoDB::Table")
    assert len(tables) == 5
    for table in tables:
        assert table["BillingMode"] == "PAY_PER_REQUEST"
        assert table["SSESpecification"]["SSEType"] == "KMS"
        assert "KMSMasterKeyId" in table["SSESpecification"]
        assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
        assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
        assert [key["AttributeName"] for key in table["KeySchema"]] == ["pk", "sk"]
        assert table["DeletionProtectionEnabled"] is deployment.stage.keeps_data


def test_the_runs_table_has_indexes_of_users_and_of_due_runs_with_keys_and_status_alone(deployment: Deployment) -> None:
    [runs] = [t for t in deployment.of_type("AWS::DynamoDB::Table") if "GlobalSecondaryIndexes" in t]
    indexes = {
        index["IndexName"]: ([key["AttributeName"] for key in index["KeySchema"]], index["Projection"])
        for index in runs["GlobalSecondaryIndexes"]
    }
    projection = {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["status"]}
    assert indexes == {
        "by_user": (["user_key", "run_id"], projection),
        "by_approval": (["approval_key", "run_id"], projection),
        "by_due": (["due_shard", "due_at"], projection),
    }


def test_the_key_rotates(deployment: Deployment) -> None:
    assert deployment["State"].only("AWS::KMS::Key")["EnableKeyRotation"] is True


def test_the_bucket_is_private_encrypted_and_versioned(deployment: Deployment) -> None:
    bucket = deployment["State"].only("AWS::S3::Bucket")
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    [rule] = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    assert rule["BucketKeyEnabled"] is True


@pytest.mark.parametrize("name", ["dev", "prod"])
def test_bucket_and_queues_refuse_what_comes_without_tls(deployments: dict[str, Deployment], name: str) -> None:
    deployment = deployments[name]
    assert len(deployment.of_type("AWS::SQS::QueuePolicy")) == len(deployment.of_type("AWS::SQS::Queue")) == 2
    for policy in deployment.of_type("AWS::SQS::QueuePolicy"):
        [deny] = policy["PolicyDocument"]["Statement"]
        assert (deny["Effect"], deny["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    statements = deployment["State"].only("AWS::S3::BucketPolicy")["PolicyDocument"]["Statement"]
    denied = [s["Condition"] for s in statements if s["Effect"] == "Deny" and s["Principal"] == {"AWS": "*"}]
    assert {"Bool": {"aws:SecureTransport": "false"}} in denied
    assert {"NumericLessThan": {"s3:TlsVersion": 1.2}} in denied


@pytest.mark.parametrize("kind", ["AWS::DynamoDB::Table", "AWS::S3::Bucket", "AWS::KMS::Key", "AWS::Cognito::UserPool"])
def test_a_stage_that_keeps_data_keeps_it_when_the_stack_goes(deployment: Deployment, kind: str) -> None:
    found = [r for template in deployment.parts.values() for r in template.of_type(kind).values()]
    assert found
    assert {r["DeletionPolicy"] for r in found} == {"Retain" if deployment.stage.keeps_data else "Delete"}


def test_prod_keeps_data_and_has_the_firewall_and_alarms() -> None:
    assert STAGES["prod"].keeps_data
    assert STAGES["prod"].firewall
    assert STAGES["prod"].alarms
    assert not STAGES["prod"].password_sign_in


def test_every_function_has_a_role_and_a_log_group_of_its_own(deployment: Deployment) -> None:
    functions = deployment.functions()
    assert set(functions) == {
        *("shim", "stream_events", "add_claims"),
        *("run_agent", "run_tool", "work_tool_queue", "sweep_runs", "administer"),
    }
    assert len({json.dumps(f["Role"]) for f in functions.values()}) == len(functions)
    assert len({json.dumps(f["LoggingConfig"]["LogGroup"]) for f in functions.values()}) == len(functions)
    for group in deployment.of_type("AWS::Logs::LogGroup"):
        assert group["RetentionInDays"] <= 90


def test_every_function_is_built_for_the_same_runtime_bounded_and_traced(deployment: Deployment) -> None:
    for door, function in deployment.functions().items():
        assert function["Runtime"] == "python3.13"
        assert function["Architectures"] == ["arm64"]
        assert function["Handler"] == f"lambdas.{door}.handler"
        assert function["TracingConfig"] == {"Mode": "Active"}
        assert 1 <= function["Timeout"] <= 900
        assert 128 <= function["MemorySize"] <= 2048
    assert deployment.functions()["run_agent"]["Timeout"] <= 300


def test_recursion_is_allowed_only_where_functions_wake_each_other_in_a_circle(deployment: Deployment) -> None:
    allowed = {door for door, f in deployment.functions().items() if f["RecursiveLoop"] == "Allow"}
    assert allowed == {"run_agent", "work_tool_queue", "sweep_runs"}


def test_who_waits_for_a_tool_waits_longer_than_the_tool_runs(deployment: Deployment) -> None:
    functions = deployment.functions()
    [queue] = [q for q in deployment.of_type("AWS::SQS::Queue") if "RedrivePolicy" in q]
    tool, worker = functions["run_tool"]["Timeout"], functions["work_tool_queue"]["Timeout"]
    assert tool < worker < queue["VisibilityTimeout"]
    assert tool > read_rights("support_desk").longest_s


def test_a_job_is_taken_alone_and_ends_in_the_dead_letter_queue_after_the_delivery_its_worker_takes_for_the_last(
    deployment: Deployment,
) -> None:
    [mapping] = deployment.of_type("AWS::Lambda::EventSourceMapping")
    assert mapping["BatchSize"] == 1
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": deployment.stage.queue_concurrency}
    queues = deployment.of_type("AWS::SQS::Queue")
    assert {q.get("RedrivePolicy", {}).get("maxReceiveCount") for q in queues} == {4, None}
    told = [f["Environment"]["Variables"] for f in deployment.of_type("AWS::Lambda::Function")]
    assert [v["KEEPGATE_MAX_RECEIVES"] for v in told if "KEEPGATE_MAX_RECEIVES" in v] == ["4"]
    assert all(q["SqsManagedSseEnabled"] is True for q in queues)


def test_a_failed_wake_up_is_never_repeated_and_goes_to_the_sweeper_at_once(deployment: Deployment) -> None:
    template = deployment["Agent"]
    [config] = [c for c in deployment.of_type("AWS::Lambda::EventInvokeConfig") if "DestinationConfig" in c]
    assert config["MaximumRetryAttempts"] == 0
    assert config["MaximumEventAgeInSeconds"] <= 300
    sweeper = config["DestinationConfig"]["OnFailure"]["Destination"]["Fn::GetAtt"][0]
    agent = config["FunctionName"]["Ref"]
    names = {name: f["Properties"]["FunctionName"] for name, f in template.of_type("AWS::Lambda::Function").items()}
    assert names[agent].endswith("run-agent")
    assert names[sweeper].endswith("sweep-runs")


def test_what_waits_for_the_sweeper_is_tried_again_and_does_not_pile_up_for_hours(deployment: Deployment) -> None:
    template = deployment["Agent"]
    functions = template.of_type("AWS::Lambda::Function")
    configs = {
        functions[config["FunctionName"]["Ref"]]["Properties"]["FunctionName"]: config
        for config in template.properties("AWS::Lambda::EventInvokeConfig")
    }
    sweeping = configs[f"keepgate-{deployment.stage.name}-sweep-runs"]
    assert sweeping["MaximumRetryAttempts"] == 2
    assert sweeping["MaximumEventAgeInSeconds"] == deployment.functions()["run_agent"]["Timeout"]


def test_the_sweeper_runs_each_minute(deployment: Deployment) -> None:
    [rule] = deployment.of_type("AWS::Events::Rule")
    assert rule["ScheduleExpression"] == "rate(1 minute)"
    assert rule["State"] == "ENABLED"


def test_no_stack_imports_a_function_which_then_could_not_be_replaced(deployment: Deployment) -> None:
    """CloudFormation refuses to change an export that is in use: `isolates_tenants` could not be turned on or off."""
    for part in ("Agent", "Edge"):
        functions = deployment[part].of_type("AWS::Lambda::Function")
        for name, output in deployment[part].document["Outputs"].items():
            if "Export" in output:
                assert output["Value"].get("Ref") not in functions, name


def test_the_outputs_are_those_that_the_local_cloud_and_operators_read(deployment: Deployment) -> None:
    outputs = {
        part: {name for name in template.document["Outputs"] if not name.startswith("Exports")}
        for part, template in deployment.parts.items()
        if "Outputs" in template.document
    }
    exported = {name for name in outputs["State"] if name.startswith("Export")}
    assert outputs["State"] - exported == {"RunsTable", "LedgerTable", "ControlTable", "TenantTable", "FilesBucket"}
    assert outputs["Agent"] == {
        *("AgentFunction", "ToolFunction", "ToolQueueUrl", "ToolDeadLetterQueueUrl"),
        *("AgentRoleArn", "ToolRoleArn", "DataRoleArn", "OperatorPolicyArn"),
    }
    assert outputs["Edge"] == {"ApiUrl", "UserPoolId", "UserPoolClientId", "ShimFunction"}


def test_a_template_of_aws_names_no_account(deployments: dict[str, Deployment]) -> None:
    for name in ("dev", "prod"):
        for template in deployments[name].parts.values():
            assert not re.search(r"\b\d{12}\b", json.dumps(template.document))


def test_every_log_group_masks_personal_data_and_secrets(deployment: Deployment) -> None:
    groups = deployment.of_type("AWS::Logs::LogGroup")
    assert len(groups) >= len(deployment.functions())
    for group in groups:
        policy = group["DataProtectionPolicy"]
        audit, masked = policy["Statement"]
        assert audit["DataIdentifier"] == masked["DataIdentifier"]
        assert masked["Operation"] == {"Deidentify": {"MaskConfig": {}}}
        named = json.dumps(masked["DataIdentifier"])
        for kind in ("EmailAddress", "CreditCardNumber", "AwsSecretKey", "OpenSshPrivateKey", "PhoneNumber-DE", "Jwt"):
            assert kind in named
    unmasking = [s for s in deployment.statements() if "logs:Unmask" in s.actions]
    assert unmasking == []


def test_a_pattern_of_our_own_is_one_that_cloudwatch_logs_takes(deployment: Deployment) -> None:
    """The user guide, "Custom data identifiers": a log group with any other sign is refused at the deployment."""
    for group in deployment.of_type("AWS::Logs::LogGroup"):
        own = group["DataProtectionPolicy"]["Configuration"]["CustomDataIdentifier"]
        assert 0 < len(own) <= 10
        for identifier in own:
            assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", identifier["Name"])
            assert re.fullmatch(r"[A-Za-z0-9_#=@/;,\- ^$?\[\]{}|\\*+.]{1,200}", identifier["Regex"])


def test_model_calls_pass_a_guardrail_where_the_stage_has_one(deployment: Deployment) -> None:
    guardrails = deployment.of_type("AWS::Bedrock::Guardrail")
    assert len(guardrails) == bool(deployment.stage.guardrail_strength)
    environment = deployment.functions()["run_agent"]["Environment"]["Variables"]
    assert (
        bool(environment["KEEPGATE_GUARDRAIL_ID"])
        == bool(guardrails)
        == bool(environment["KEEPGATE_GUARDRAIL_VERSION"])
    )
    for guardrail in guardrails:
        filters = {f["Type"]: f for f in guardrail["ContentPolicyConfig"]["FiltersConfig"]}
        assert {f["InputStrength"] for f in filters.values()} == {deployment.stage.guardrail_strength}
        assert filters["PROMPT_ATTACK"]["OutputStrength"] == "NONE"
        secrets = guardrail["SensitiveInformationPolicyConfig"]["PiiEntitiesConfig"]
        assert {entity["Action"] for entity in secrets} == {"BLOCK"}
        [version] = deployment.of_type("AWS::Bedrock::GuardrailVersion")
        assert version["GuardrailIdentifier"]


def test_a_stages_denied_topics_are_its_guardrails_and_a_change_is_a_new_version(tmp_path: Path) -> None:
    topic = DeniedTopic(name="Legal advice", definition="Anything about courts or lawyers.", examples=("May I sue?",))
    stage = STAGES["dev"].overridden({"denied_topics": [asdict(topic)], "guardrail_strength": "HIGH"})
    template = synthesize(stage, tmp_path / "a")["Agent"]
    [denied] = template.only("AWS::Bedrock::Guardrail")["TopicPolicyConfig"]["TopicsConfig"]
    assert (denied["Name"], denied["Type"], denied["Examples"]) == ("Legal advice", "DENY", ["May I sue?"])
    before = synthesize(STAGES["dev"], tmp_path / "b")["Agent"]
    [new], [old] = (set(t.of_type("AWS::Bedrock::GuardrailVersion")) for t in (template, before))
    assert new != old


def test_a_version_of_the_guardrail_outlives_the_deployment_that_replaces_it(deployment: Deployment) -> None:
    for version in deployment["Agent"].of_type("AWS::Bedrock::GuardrailVersion").values():
        assert version["DeletionPolicy"] == version["UpdateReplacePolicy"] == "Retain"


@pytest.fixture
def agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of agents that the stacks read from, with the sample's in it."""
    copy = tmp_path / "support_desk"
    shutil.copytree(contracts.ROOT / "support_desk", copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(contracts, "ROOT", tmp_path)
    return copy / "releases"


def test_the_agent_may_call_the_models_of_every_release_that_some_run_may_have_begun_under(agents: Path) -> None:
    newest = (agents / "support-desk-1.toml").read_text(encoding="utf-8")
    (agents / "support-desk-2.toml").write_text(newest.replace("claude-haiku-4-5-20251001-v1:0", "claude-haiku-9-v1:0"))
    found = contracts.read_model_ids("support_desk")
    assert "global.anthropic.claude-haiku-9-v1:0" in found
    assert "global.anthropic.claude-haiku-4-5-20251001-v1:0" in found


def test_a_release_may_keep_its_model_to_an_area(agents: Path, tmp_path: Path) -> None:
    for release in agents.glob("*.toml"):
        text = release.read_text(encoding="utf-8").replace("global.anthropic", "eu.anthropic")
        release.write_text(text, encoding="utf-8")
    policies = synthesize(STAGES["dev"], tmp_path / "out")["Agent"].properties("AWS::IAM::Policy")
    assert "inference-profile/eu.anthropic.claude-haiku-4-5-20251001-v1:0" in json.dumps(policies)


def test_a_strength_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigurationInvalid, match="guardrail_strength"):
        STAGES["dev"].overridden({"guardrail_strength": "SOME"})
