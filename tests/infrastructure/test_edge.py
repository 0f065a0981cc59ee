"""What the internet meets: routes and tokens, limits, the gateway's own answers, logs without secrets, the firewall."""

import json
import re
from collections.abc import Iterator
from typing import Any

from lambdas import claims
from stacks.constructs.sign_in import RESOURCE_SERVER, ROLES, SCOPE
from tests.infrastructure.templates import Deployment, Template

ROUTES = {
    "GET /runs": "shim",
    "POST /runs": "shim",
    "GET /runs/{run_id}": "shim",
    "GET /runs/{run_id}/result": "shim",
    "GET /runs/{run_id}/events": "stream_events",
    "POST /runs/{run_id}/cancel": "shim",
    "POST /runs/{run_id}/feedback": "shim",
    "GET /approvals": "shim",
    "POST /approvals/{approval_id}": "shim",
    "GET /usage": "shim",
    "GET /admin/switches": "shim",
    "POST /admin/switches": "shim",
    "GET /admin/limits": "shim",
    "POST /admin/limits": "shim",
    "GET /admin/usage": "shim",
    "GET /admin/audit": "shim",
    "GET /openapi.json": "shim",
}


def _methods(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    resources = template.of_type("AWS::ApiGateway::Resource")

    def path(resource_id: dict[str, Any]) -> str:
        if "Fn::GetAtt" in resource_id:
            return ""
        properties = resources[resource_id["Ref"]]["Properties"]
        return f"{path(properties['ParentId'])}/{properties['PathPart']}"

    for method in template.properties("AWS::ApiGateway::Method"):
        if method["HttpMethod"] != "OPTIONS":  # see test_edge_answers
            yield f"{method['HttpMethod']} {path(method['ResourceId'])}", method


def test_every_route_goes_to_its_door(deployment: Deployment) -> None:
    functions = deployment["Edge"].of_type("AWS::Lambda::Function")
    found = {}
    for route, method in _methods(deployment["Edge"]):
        assert method["Integration"]["Type"] == "AWS_PROXY"
        [target] = re.findall(r'"Fn::GetAtt": \["(\w+)", "Arn"\]', json.dumps(method["Integration"]["Uri"]))
        name = functions[target]["Properties"]["FunctionName"]
        found[route] = name.removeprefix(f"keepgate-{deployment.stage.name}-").replace("-", "_")
    assert found == ROUTES


def test_every_route_wants_a_token_of_the_pool_with_the_scope(deployment: Deployment) -> None:
    authorizer = deployment["Edge"].only("AWS::ApiGateway::Authorizer")
    assert authorizer["Type"] == "COGNITO_USER_POOLS"
    assert authorizer["AuthorizerResultTtlInSeconds"] == 0, "an expired token is refused at once"
    assert authorizer["IdentitySource"] == "method.request.header.Authorization"
    for route, method in _methods(deployment["Edge"]):
        assert method["AuthorizationType"] == "COGNITO_USER_POOLS", route
        assert method["AuthorizationScopes"] == [{"Fn::Join": ["", [{"Ref": _server(deployment)}, "/runs"]]}], route


def _server(deployment: Deployment) -> str:
    [name] = deployment["Edge"].of_type("AWS::Cognito::UserPoolResourceServer")
    return name


def test_the_scope_and_the_roles_are_those_that_the_code_knows(deployment: Deployment) -> None:
    server = deployment["Edge"].only("AWS::Cognito::UserPoolResourceServer")
    [scope] = server["Scopes"]
    assert f"{server['Identifier']}/{scope['ScopeName']}" == f"{RESOURCE_SERVER}/{SCOPE}" == claims.SCOPE
    groups = {group["GroupName"] for group in deployment.of_type("AWS::Cognito::UserPoolGroup")}
    assert groups == set(ROLES) == claims.known_roles(["user", "approver", "operator", "root"])


def test_a_body_must_be_json_and_a_run_must_be_named_before_any_code_runs(deployment: Deployment) -> None:
    validator = deployment["Edge"].only("AWS::ApiGateway::RequestValidator")
    assert validator["ValidateRequestBody"] is validator["ValidateRequestParameters"] is True
    bodies = set()
    for route, method in _methods(deployment["Edge"]):
        assert "RequestValidatorId" in method
        named = {f"method.request.path.{name}": True for name in re.findall(r"{(\w+)}", route)}
        assert method.get("RequestParameters", {}) == named
        if "RequestModels" in method:
            bodies.add(route)
    assert bodies == {
        *("POST /runs", "POST /runs/{run_id}/feedback", "POST /approvals/{approval_id}"),
        *("POST /admin/switches", "POST /admin/limits"),
    }


def test_the_stage_is_v1_throttled_traced_and_logs_errors_without_contents(deployment: Deployment) -> None:
    stage = deployment["Edge"].only("AWS::ApiGateway::Stage")
    assert stage["StageName"] == "v1"
    assert stage["TracingEnabled"] is True
    limits = {f"{m['HttpMethod']} {m['ResourcePath']}": m for m in stage["MethodSettings"]}
    everything, create = limits["* /*"], limits["POST /~1runs"]
    config = deployment.stage
    assert everything["ThrottlingRateLimit"] == config.api_rate
    assert everything["ThrottlingBurstLimit"] == config.api_burst
    assert create["ThrottlingRateLimit"] == config.create_rate <= config.api_rate
    assert create["ThrottlingBurstLimit"] == config.create_burst
    assert everything["DataTraceEnabled"] is False
    assert everything["LoggingLevel"] == "ERROR"


def test_access_logs_are_json_and_hold_no_header_no_query_and_no_path_value(deployment: Deployment) -> None:
    setting = deployment["Edge"].only("AWS::ApiGateway::Stage")["AccessLogSetting"]
    logged = json.loads(setting["Format"])
    assert "request_id" in logged
    for value in logged.values():
        assert re.fullmatch(r"\$context\.[A-Za-z_.]+", value)
        assert not re.search(r"path$|header|query|identity|authorizer\.(?!claims\.(sub|client_id)$)", value), value


def test_the_log_that_the_gateway_would_make_itself_is_there_before_it(deployment: Deployment) -> None:
    template = deployment["Edge"]
    [api] = template.of_type("AWS::ApiGateway::RestApi")
    [stage] = template.of_type("AWS::ApiGateway::Stage").values()
    name = {"Fn::Join": ["", ["API-Gateway-Execution-Logs_", {"Ref": api}, f"/{stage['Properties']['StageName']}"]]}
    groups = template.of_type("AWS::Logs::LogGroup")
    [group] = [logical_id for logical_id, g in groups.items() if g["Properties"].get("LogGroupName") == name]
    assert group in stage["DependsOn"]


def test_the_api_is_regional(deployment: Deployment) -> None:
    assert deployment["Edge"].only("AWS::ApiGateway::RestApi")["EndpointConfiguration"] == {"Types": ["REGIONAL"]}


def test_nobody_signs_up_alone_and_no_client_writes_the_tenant(deployment: Deployment) -> None:
    pool = deployment["Edge"].only("AWS::Cognito::UserPool")
    assert pool["AdminCreateUserConfig"] == {"AllowAdminCreateUserOnly": True}
    assert pool["UserPoolTier"] == "ESSENTIALS"
    assert pool["MfaConfiguration"] == "OPTIONAL"
    assert pool["EnabledMfas"] == ["SOFTWARE_TOKEN_MFA"]
    assert pool["Policies"]["PasswordPolicy"]["MinimumLength"] >= 12
    [tenant] = [attribute for attribute in pool["Schema"] if attribute["Name"] == "tenant_id"]
    assert tenant["Mutable"] is True
    client = deployment["Edge"].only("AWS::Cognito::UserPoolClient")
    assert client["WriteAttributes"] == ["email"]


def test_tokens_live_a_quarter_of_an_hour_and_get_their_claims_from_the_trigger(deployment: Deployment) -> None:
    client = deployment["Edge"].only("AWS::Cognito::UserPoolClient")
    assert client["AccessTokenValidity"] == client["IdTokenValidity"] == 15
    assert client["TokenValidityUnits"]["AccessToken"] == "minutes"
    assert (client["RefreshTokenValidity"], client["TokenValidityUnits"]["RefreshToken"]) == (720, "minutes")
    assert client["EnableTokenRevocation"] is True
    assert client["PreventUserExistenceErrors"] == "ENABLED"
    trigger = deployment["Edge"].only("AWS::Cognito::UserPool")["LambdaConfig"]["PreTokenGenerationConfig"]
    assert trigger["LambdaVersion"] == "V2_0"


def test_passwords_are_sent_only_where_the_stage_says_so(deployment: Deployment) -> None:
    flows = deployment["Edge"].only("AWS::Cognito::UserPoolClient")["ExplicitAuthFlows"]
    assert "ALLOW_USER_SRP_AUTH" in flows
    assert ("ALLOW_USER_PASSWORD_AUTH" in flows) is deployment.stage.password_sign_in


def _rules(prod: Deployment) -> dict[str, dict[str, Any]]:
    return {rule["Name"]: rule for rule in prod["Edge"].only("AWS::WAFv2::WebACL")["Rules"]}


def test_the_firewall_stands_before_the_api_where_the_stage_has_one(deployment: Deployment) -> None:
    associations = deployment.of_type("AWS::WAFv2::WebACLAssociation")
    assert len(associations) == deployment.stage.firewall
    if associations:
        assert "/stages/" in json.dumps(associations[0]["ResourceArn"])


def test_a_body_over_64_kb_is_refused_however_much_of_it_waf_sees(prod: Deployment) -> None:
    acl = prod["Edge"].only("AWS::WAFv2::WebACL")
    assert acl["AssociationConfig"]["RequestBody"] == {"API_GATEWAY": {"DefaultSizeInspectionLimit": "KB_64"}}
    rule = _rules(prod)["body-too-large"]
    size = rule["Statement"]["SizeConstraintStatement"]
    assert (size["ComparisonOperator"], size["Size"]) == ("GT", 65_536)
    assert size["FieldToMatch"] == {"Body": {"OversizeHandling": "MATCH"}}
    assert rule["Action"]["Block"]["CustomResponse"]["ResponseCode"] == 413
    assert json.loads(acl["CustomResponseBodies"]["too_large"]["Content"])["code"] == "too_large"


def test_managed_rules_that_read_bodies_count_and_block_only_off_the_routes_that_take_prose(prod: Deployment) -> None:
    rules = _rules(prod)
    counted = set()
    for name, rule in rules.items():
        if name.startswith("AWSManagedRules"):
            group = rule["Statement"]["ManagedRuleGroupStatement"]
            for override in group.get("RuleActionOverrides", []):
                assert override["ActionToUse"] == {"Count": {}}
                assert override["Name"].endswith("_BODY")
                counted.add(override["Name"].removesuffix("_BODY"))
            assert rule["Priority"] < rules["attack-in-body"]["Priority"]
    attack, not_prose = rules["attack-in-body"]["Statement"]["AndStatement"]["Statements"]
    labels = {s["LabelMatchStatement"]["Key"] for s in attack["OrStatement"]["Statements"]}
    assert {label.rpartition(":")[2].removesuffix("_Body") for label in labels} == counted - {"SizeRestrictions"}
    prose = json.dumps(not_prose["NotStatement"])
    assert re.findall(r'"SearchString": "([^"]+)"', prose) == ["POST", "/v1/runs", "/feedback", "/v1/approvals/"]
    assert rules["attack-in-body"]["Action"] == {"Block": {}}


def test_reconnects_to_a_stream_have_a_rate_of_their_own(prod: Deployment) -> None:
    rules = _rules(prod)
    general = rules["rate-by-address"]["Statement"]["RateBasedStatement"]
    reconnects = rules["reconnects-by-address"]["Statement"]["RateBasedStatement"]
    assert general["ScopeDownStatement"] == {"NotStatement": {"Statement": reconnects["ScopeDownStatement"]}}
    assert general["Limit"] == prod.stage.requests_per_ip < reconnects["Limit"] == prod.stage.reconnects_per_ip
    assert re.findall(r'"SearchString": "([^"]+)"', json.dumps(reconnects["ScopeDownStatement"])) == ["GET", "/events"]


def test_the_firewall_keeps_no_token(prod: Deployment) -> None:
    logging = prod["Edge"].only("AWS::WAFv2::LoggingConfiguration")
    headers = {field["SingleHeader"]["Name"] for field in logging["RedactedFields"] if "SingleHeader" in field}
    assert headers == {"authorization", "cookie"}
    assert {"QueryString": {}} in logging["RedactedFields"]
    acl = prod["Edge"].only("AWS::WAFv2::WebACL")
    for visible in (acl, *acl["Rules"]):
        assert visible["VisibilityConfig"]["SampledRequestsEnabled"] is False
