"""The platform operator's door: a function without a route, and the policy that lets people invoke it.

Nobody has that policy until somebody attaches it. The function's own policy refuses the rooms: none of them may operate
the platform, whatever rights it is given by mistake. Whoever invokes it proves who they are (`agent.aws.caller`).
"""

from aws_cdk import Aws, Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from lambdas.settings import AdministerSettings
from stacks.config import Stage
from stacks.constructs.locked_door import refusal
from stacks.constructs.room_function import RoomFunction, role_arn
from stacks.state import StateStack

WRITES = ("SWITCH#PLATFORM", "SWITCH#ON#*", "LIMIT", "LIMIT#*", "AUDIT#*")
"""Not what tenants' operators have set: that is theirs to take back."""
ROOMS = ("shim", "stream_events", "add_claims", "run_agent", "run_tool", "work_tool_queue", "sweep_runs", "tenant_data")


class OperatorsDoor(Construct):
    """`administer`, and who may knock."""

    def __init__(
        self, scope: Construct, construct_id: str, *, stage: Stage, state: StateStack, code: lambda_.Code
    ) -> None:
        super().__init__(scope, construct_id)
        self.administer = RoomFunction(
            self,
            "Administer",
            stage=stage,
            code=code,
            timeout=Duration.seconds(30),
            if_lost="The operator who waits for the answer sees it fail, and tries again.",
            settings=AdministerSettings(
                stage=stage.name,
                service="administer",
                trace_exporter=stage.trace_exporter,
                function=stage.resource_name("administer"),
                account=Aws.ACCOUNT_ID,
                **stage.limits(state.control.table_name),
            ),
        )
        self.administer.may_use(state.control, ["BatchGetItem"])
        self.administer.may_use(state.control, ["PutItem"], leading_keys=WRITES)
        self.administer.may_use(state.control, ["Query"], leading_keys=("AUDIT#*",))
        arn = self.administer.function.function_arn
        self.policy = iam.ManagedPolicy(
            self,
            "Policy",
            managed_policy_name=f"{stage.resource_name('operator')}-{Aws.REGION}",
            description=f"Keepgate {stage.name}: operate the platform, through lambdas/administer.py",
            statements=[iam.PolicyStatement(actions=["lambda:InvokeFunction"], resources=[arn])],
        )
        rooms = [role_arn(self, stage, door) for door in ROOMS]
        deny = refusal(self.administer, "NoRoomOperatesThePlatform", {"ArnEquals": {"aws:PrincipalArn": rooms}})
        lambda_.CfnResourcePolicy(self, "NotTheRooms", resource_arn=arn, policy_document=deny)
