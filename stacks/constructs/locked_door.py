"""A function's resource policy that refuses every principal but the named roles, whatever rights those others hold.

IAM grants add up: without this, one careless `lambda:*` somewhere in the account opens the agent's door. A deny in
the resource policy is not outvoted. It must stand alone: `AWS::Lambda::Permission` on the same function would be
overwritten by it, so nothing but roles can be let in (no API, no service).
"""

from collections.abc import Sequence

from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_

from stacks.constructs.room_function import RoomFunction


def lock_door(function: RoomFunction, *, callers: Sequence[str]) -> None:
    """Let only the roles with these ARNs invoke `function`."""
    arn = function.function.function_arn
    deny = iam.PolicyStatement(
        sid="OnlyTheRoomsNextDoor",
        effect=iam.Effect.DENY,
        principals=[iam.AnyPrincipal()],
        actions=["lambda:InvokeFunction"],
        resources=[arn],
        conditions={"ArnNotEquals": {"aws:PrincipalArn": list(callers)}},
    )
    lambda_.CfnResourcePolicy(
        function,
        "OnlyCallers",
        resource_arn=arn,
        policy_document=iam.PolicyDocument(statements=[deny]),
    )
