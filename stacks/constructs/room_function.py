"""One Lambda function of a room: an own role that starts with nothing, an own log group, settings as its environment.

Rights are given statement by statement with `may`, never through CDK's grants, which hand out wildcards and actions
nobody uses. Functions have fixed names because they wake each other in a circle: a right or a setting may name a
function that CloudFormation makes later.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import ArnFormat, Aws, Duration, RemovalPolicy, Stack
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from lambdas.settings import Settings
from stacks.config import Stage
from stacks.constructs.log_protection import protection
from stacks.findings import accept

RUNTIME = lambda_.Runtime.PYTHON_3_13
TABLE_KEY_ACTIONS = (
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
)
"""What DynamoDB does with a table's key in its caller's name."""


class RoomFunction(Construct):
    """The function behind the door `lambdas.<settings.service>.handler`.

    `if_lost` says what makes up for an invocation that fails for good, since none has a dead-letter queue of its own.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: Stage,
        settings: Settings,
        code: lambda_.Code,
        timeout: Duration,
        memory_mb: int = 512,
        if_lost: str,
        in_wake_cycle: bool = False,
        by_tenant: bool = False,
    ) -> None:
        super().__init__(scope, construct_id)
        self.door = door = settings.service
        self.name = stage.function_name(door)
        self.log_group = logs.LogGroup(
            self,
            "Logs",
            data_protection_policy=protection(),
            retention=logs.RetentionDays[stage.log_retention],
            removal_policy=RemovalPolicy.RETAIN if stage.keeps_data else RemovalPolicy.DESTROY,
        )
        self.role = iam.Role(
            self,
            "Role",
            role_name=role_name(stage, door),
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            description=f"Keepgate {stage.name}: what lambdas/{door}.py may do",
        )
        self.function = lambda_.Function(
            self,
            "Function",
            function_name=self.name,
            description=f"Keepgate {stage.name}: lambdas/{door}.py",
            runtime=RUNTIME,
            architecture=lambda_.Architecture.ARM_64,
            handler=f"lambdas.{door}.handler",
            code=code,
            role=self.role,
            log_group=self.log_group,
            logging_format=lambda_.LoggingFormat.JSON,
            environment=settings.to_environment(),
            timeout=timeout,
            memory_size=memory_mb,
            tracing=lambda_.Tracing.ACTIVE,
            tenancy_config=lambda_.TenancyConfig.PER_TENANT if by_tenant else None,
            recursive_loop=lambda_.RecursiveLoop.ALLOW if in_wake_cycle else lambda_.RecursiveLoop.TERMINATE,
        )
        accept(self.function, if_lost, "Serverless-LambdaDLQ")
        accept(
            self.function,
            "3.13 is what the tests run on and the bundles are built for; Lambda supports it until 2029.",
            "AwsSolutions-L1",
            "Serverless-LambdaLatestVersion",
        )
        accept(self.role, "X-Ray's PutTraceSegments knows no resources.", "AwsSolutions-IAM5[Resource::*]")
        self.may(["logs:CreateLogStream", "logs:PutLogEvents"], [self.log_group.log_group_arn])

    def may(
        self,
        actions: Sequence[str],
        resources: Sequence[str],
        conditions: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Allow exactly these actions on exactly these resources."""
        self.role.add_to_policy(
            iam.PolicyStatement(actions=list(actions), resources=list(resources), conditions=conditions)
        )

    def may_use(
        self,
        table: dynamodb.ITable,
        actions: Sequence[str],
        *,
        indexes: Sequence[str] = (),
        leading_keys: tuple[str, ...] = (),
    ) -> None:
        """Allow these DynamoDB actions on a table, queries on these of its indexes, and its key for just that.

        `leading_keys` narrows it to the partition keys of these patterns; requests that name no key are then refused.
        """
        only: dict[str, dict[str, Any]] | None = None
        if leading_keys:
            keys = {"dynamodb:LeadingKeys": list(leading_keys)}
            only = {"ForAllValues:StringLike": keys, "Null": {"dynamodb:LeadingKeys": "false"}}
        self.may([f"dynamodb:{action}" for action in actions], [table.table_arn], only)
        if indexes:
            self.may(["dynamodb:Query"], [f"{table.table_arn}/index/{index}" for index in indexes])
        if table.encryption_key is not None:
            self.may(TABLE_KEY_ACTIONS, [table.encryption_key.key_arn], via("dynamodb"))

    def may_invoke(self, *function_arns: str) -> None:
        """Allow it to invoke these functions."""
        self.may(["lambda:InvokeFunction"], function_arns)


def role_name(stage: Stage, door: str) -> str:
    """Return the name of a door's role. Roles are global, so the region is part of it."""
    return f"{stage.resource_name(door)}-{Aws.REGION}"


def role_arn(scope: Construct, stage: Stage, door: str) -> str:
    """Return the ARN of a door's role, which need not exist yet."""
    return Stack.of(scope).format_arn(service="iam", region="", resource="role", resource_name=role_name(stage, door))


def function_arn(scope: Construct, stage: Stage, door: str) -> str:
    """Return the ARN of a door's function, which need not exist yet."""
    return Stack.of(scope).format_arn(
        service="lambda",
        resource="function",
        resource_name=stage.function_name(door),
        arn_format=ArnFormat.COLON_RESOURCE_NAME,
    )


def via(service: str) -> dict[str, dict[str, object]]:
    """Return the condition that a key is used only through a service of this region."""
    return {"StringEquals": {"kms:ViaService": f"{service}.{Aws.REGION}.amazonaws.com"}}
