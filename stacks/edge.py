"""Room 1, the people's: user pool, API, firewall and their functions. No model, no tool, no tenant data."""

from aws_cdk import CfnOutput, Duration
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from lambdas.settings import AddClaimsSettings, ShimSettings, StreamEventsSettings
from stacks.bundling import Bundles
from stacks.config import Stage
from stacks.constructs.firewall import Firewall
from stacks.constructs.room_function import RoomFunction, function_arn
from stacks.constructs.run_api import RunApi
from stacks.constructs.sign_in import SignIn
from stacks.stage_stack import StageStack
from stacks.state import StateStack

GATEWAY_PATIENCE = Duration.seconds(29)
"""The longest a REST API waits for an integration."""


class EdgeStack(StageStack):
    """What the internet reaches."""

    def __init__(self, scope: Construct, stage: Stage, *, state: StateStack, bundles: Bundles) -> None:
        super().__init__(scope, "Edge", stage)
        assets = lambda_.Code.from_asset(str(bundles.doors))
        self.add_claims = RoomFunction(
            self,
            "AddClaims",
            stage=stage,
            code=assets,
            timeout=Duration.seconds(5),
            memory_mb=256,
            if_lost="Cognito refuses the sign-in, and the user tries again.",
            settings=AddClaimsSettings(stage=stage.name, service="add_claims", trace_exporter=stage.trace_exporter),
        )
        self.sign_in = SignIn(self, "SignIn", stage=stage, add_claims=self.add_claims.function)
        client_id = self.sign_in.client.user_pool_client_id

        self.shim = RoomFunction(
            self,
            "Shim",
            stage=stage,
            code=assets,
            timeout=GATEWAY_PATIENCE,
            if_lost="The gateway answers 5xx, and the caller tries again under the same idempotency key.",
            settings=ShimSettings(
                stage=stage.name,
                service="shim",
                trace_exporter=stage.trace_exporter,
                runs_table=state.runs.table_name,
                ledger_table=state.ledger.table_name,
                agent_function=stage.resource_name("run_agent"),
                release=stage.release,
                client_ids=client_id,
                allowed_origins=stage.allowed_origins,
                **stage.limits(state.control.table_name),
            ),
        )
        self.shim.may_use(
            state.runs,
            ["GetItem", "BatchGetItem", "Query", "PutItem", "UpdateItem"],
            indexes=["by_user", "by_approval"],
        )
        self.shim.may_use(
            state.ledger,
            ["BatchGetItem"],
            leading_keys=(
                "B#user#*",
                "B#tenant#*",
            ),
        )
        self.shim.may_use(state.control, ["BatchGetItem"])
        self.shim.may_use(
            state.control,
            ["PutItem"],
            leading_keys=(
                "SWITCH#BY#*",
                "OWN_LIMIT#*",
                "AUDIT#T#*",
            ),
        )
        self.shim.may_use(state.control, ["Query"], leading_keys=("AUDIT#T#*",))
        self.shim.may_invoke(function_arn(self, stage, "run_agent"))

        self.stream_events = RoomFunction(
            self,
            "StreamEvents",
            stage=stage,
            code=assets,
            timeout=GATEWAY_PATIENCE,
            if_lost="The gateway answers 5xx, and the client reconnects with its last cursor.",
            settings=StreamEventsSettings(
                stage=stage.name,
                service="stream_events",
                trace_exporter=stage.trace_exporter,
                runs_table=state.runs.table_name,
                client_ids=client_id,
                allowed_origins=stage.allowed_origins,
            ),
        )
        self.stream_events.may_use(state.runs, ["GetItem", "Query"])
        self.functions = [self.add_claims, self.shim, self.stream_events]

        self.run_api = RunApi(
            self,
            "RunApi",
            stage=stage,
            pool=self.sign_in.pool,
            token_scope=self.sign_in.scope,
            shim=self.shim,
            stream_events=self.stream_events,
        )
        if stage.firewall:
            Firewall(self, "Firewall", stage=stage, api_stage_arn=self.run_api.api.deployment_stage.stage_arn)

        CfnOutput(self, "ApiUrl", value=self.run_api.api.url)
        CfnOutput(self, "UserPoolId", value=self.sign_in.pool.user_pool_id)
        CfnOutput(self, "UserPoolClientId", value=client_id)
        CfnOutput(self, "ShimFunction", value=self.shim.function.function_name)
