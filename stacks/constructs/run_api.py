"""The REST API of the people's room: routes, who may call them, how often, and what is refused before any code runs.

The body model only demands a JSON object: the gateway can't name the wrong field in an answer that stays valid JSON,
the shim can, and validates everything.
"""

import json
import re
from collections import defaultdict

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cognito as cognito
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from lambdas.headers import Cors
from stacks.config import Stage
from stacks.constructs.locked_door import lock_door
from stacks.constructs.log_protection import protection
from stacks.constructs.preflight import answer_preflight
from stacks.constructs.problems import answer_with_problems
from stacks.constructs.room_function import RoomFunction, function_arn, role_arn, role_name
from stacks.findings import accept

API_STAGE = "v1"
LOGS_POLICY = "service-role/AmazonAPIGatewayPushToCloudWatchLogs"
ACCESS_LOG = {
    "request_id": "$context.requestId",
    "trace_id": "$context.xrayTraceId",
    "time": "$context.requestTime",
    "method": "$context.httpMethod",
    "route": "$context.resourcePath",
    "status": "$context.status",
    "latency_ms": "$context.responseLatency",
    "response_bytes": "$context.responseLength",
    "user": "$context.authorizer.claims.sub",
    "client": "$context.authorizer.claims.client_id",
    "refused_by": "$context.error.responseType",
    "firewall": "$context.waf.status",
}
"""Never a header, a query string or a path's value: those may hold tokens and ids of other people."""


class RunApi(Construct):
    """API Gateway before the shim and the event stream."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: Stage,
        pool: cognito.IUserPool,
        token_scope: str,
        shim: RoomFunction,
        stream_events: RoomFunction,
    ) -> None:
        super().__init__(scope, construct_id)
        self.access_log = self._log_group("AccessLog", stage)
        self.api = apigateway.RestApi(
            self,
            "Api",
            rest_api_name=stage.resource_name("api"),
            description=f"Keepgate {stage.name}: the run API",
            endpoint_types=[apigateway.EndpointType.REGIONAL],
            cloud_watch_role=True,
            cloud_watch_role_removal_policy=RemovalPolicy.RETAIN,
            deploy_options=self._stage_options(stage),
        )
        # The gateway makes this group where it finds none: kept for ever, and without protection.
        executions = f"API-Gateway-Execution-Logs_{self.api.rest_api_id}/{API_STAGE}"
        self.api.deployment_stage.node.add_dependency(self._log_group("ExecutionLog", stage, executions))
        accept(
            self.api,
            "API Gateway writes all logs of an account through one role and names the groups of executions itself; AWS"
            " maintains the policy for just that.",
            f"AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/{LOGS_POLICY}]",
        )
        if not stage.firewall:
            accept(
                self.api,
                "This stage does without WAF: locally it would guard nothing, elsewhere it is most of the idle cost.",
                "AwsSolutions-APIG3",
            )
        authorizer = apigateway.CognitoUserPoolsAuthorizer(
            self,
            "SignedIn",
            cognito_user_pools=[pool],
            results_cache_ttl=Duration.seconds(0),  # a cached answer would outlive its token
        )
        self._signed_in = apigateway.MethodOptions(
            authorizer=authorizer,
            authorization_type=apigateway.AuthorizationType.COGNITO,
            authorization_scopes=[token_scope],
        )
        self._object = self.api.add_model(
            "Object",
            content_type="application/json",
            schema=apigateway.JsonSchema(
                schema=apigateway.JsonSchemaVersion.DRAFT4, type=apigateway.JsonSchemaType.OBJECT
            ),
        )
        self._validator = self.api.add_request_validator(
            "Validator", validate_request_body=True, validate_request_parameters=True
        )
        self._caller = iam.Role(
            self,
            "Gateway",
            role_name=role_name(stage, "gateway"),
            description=f"Keepgate {stage.name}: as what the gateway invokes the people's doors",
            assumed_by=iam.ServicePrincipal("apigateway.amazonaws.com"),
        )
        self._verbs: dict[apigateway.Resource, list[str]] = defaultdict(list)
        self.api.node.try_remove_child("Endpoint")  # an output the stack has under its own name
        self._routes(stage, shim, stream_events)
        cors = Cors.of(stage.allowed_origins)
        for resource, verbs in self._verbs.items():
            answer_preflight(resource, cors, verbs)
        answer_with_problems(self, self.api, cors)

    def _log_group(self, construct_id: str, stage: Stage, name: str | None = None) -> logs.LogGroup:
        return logs.LogGroup(
            self,
            construct_id,
            log_group_name=name,
            data_protection_policy=protection(),
            retention=logs.RetentionDays[stage.log_retention],
            removal_policy=RemovalPolicy.RETAIN if stage.keeps_data else RemovalPolicy.DESTROY,
        )

    def _stage_options(self, stage: Stage) -> apigateway.StageOptions:
        return apigateway.StageOptions(
            stage_name=API_STAGE,
            tracing_enabled=True,
            metrics_enabled=True,
            logging_level=apigateway.MethodLoggingLevel.ERROR,
            data_trace_enabled=False,
            access_log_destination=apigateway.LogGroupLogDestination(self.access_log),
            access_log_format=apigateway.AccessLogFormat.custom(json.dumps(ACCESS_LOG)),
            throttling_rate_limit=stage.api_rate,
            throttling_burst_limit=stage.api_burst,
            method_options={
                "/runs/POST": apigateway.MethodDeploymentOptions(
                    throttling_rate_limit=stage.create_rate, throttling_burst_limit=stage.create_burst
                )
            },
        )

    def _to(self, stage: Stage, function: RoomFunction) -> apigateway.AwsIntegration:
        """Return the way to a door, which it opens to the gateway alone.

        The gateway comes as a role: a permission for its service would leave the door open to everybody in the account
        whom IAM lets invoke functions, and the door believes the claims it is told.
        """
        arn = function_arn(self, stage, function.door)
        self._caller.add_to_policy(iam.PolicyStatement(actions=["lambda:InvokeFunction"], resources=[arn]))
        lock_door(function, callers=[role_arn(self, stage, "gateway")])
        return apigateway.AwsIntegration(
            service="lambda",
            proxy=True,
            path=f"2015-03-31/functions/{function.function.function_arn}/invocations",
            options=apigateway.IntegrationOptions(credentials_role=self._caller),
        )

    def _routes(self, stage: Stage, shim: RoomFunction, stream_events: RoomFunction) -> None:
        to_shim, to_stream = self._to(stage, shim), self._to(stage, stream_events)
        runs = self.api.root.add_resource("runs")
        run = runs.add_resource("{run_id}")
        self._method(runs, "GET", to_shim)
        self._method(runs, "POST", to_shim, body=True)
        self._method(run, "GET", to_shim)
        self._method(run.add_resource("result"), "GET", to_shim)
        self._method(run.add_resource("events"), "GET", to_stream)
        self._method(run.add_resource("cancel"), "POST", to_shim)
        self._method(run.add_resource("feedback"), "POST", to_shim, body=True)
        approvals = self.api.root.add_resource("approvals")
        self._method(approvals, "GET", to_shim)
        self._method(approvals.add_resource("{approval_id}"), "POST", to_shim, body=True)
        self._method(self.api.root.add_resource("usage"), "GET", to_shim)
        admin = self.api.root.add_resource("admin")
        for name in ("switches", "limits"):
            kept = admin.add_resource(name)
            self._method(kept, "GET", to_shim)
            self._method(kept, "POST", to_shim, body=True)
        for name in ("usage", "audit"):
            self._method(admin.add_resource(name), "GET", to_shim)
        self._method(self.api.root.add_resource("openapi.json"), "GET", to_shim)

    def _method(
        self, resource: apigateway.Resource, verb: str, integration: apigateway.AwsIntegration, *, body: bool = False
    ) -> None:
        self._verbs[resource].append(verb)
        resource.add_method(
            verb,
            integration,
            authorizer=self._signed_in.authorizer,
            authorization_type=self._signed_in.authorization_type,
            authorization_scopes=self._signed_in.authorization_scopes,
            request_validator=self._validator,
            request_models={"application/json": self._object} if body else None,
            request_parameters={f"method.request.path.{name}": True for name in re.findall(r"{(\w+)}", resource.path)}
            or None,
        )
