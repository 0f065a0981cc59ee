"""A function's resource policy that refuses every principal but the named roles, whatever rights those others hold.

IAM grants add up: without this, one careless `lambda:*` somewhere in the account opens a room's door. A deny in the
resource policy is not outvoted. It must stand alone: `AWS::Lambda::Permission` on the same function would be
overwritten by it, so nothing but roles can be let in: no service, and an API as a role.

A function's ARN has no wildcard at its end: `<arn>:$LATEST`, and each version, is another resource of the same code.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_

from stacks.constructs.room_function import RoomFunction


def lock_door(function: RoomFunction, *, callers: Sequence[str]) -> None:
    """Let only the roles with these ARNs invoke `function`."""
    others = {"ArnNotEquals": {"aws:PrincipalArn": list(callers)}}
    policy = refusal(function, "OnlyTheRoomsNextDoor", others)
    lambda_.CfnResourcePolicy(
        function, "OnlyCallers", resource_arn=function.function.function_arn, policy_document=policy
    )


def refusal(function: RoomFunction, sid: str, whom: Mapping[str, Mapping[str, Any]]) -> iam.PolicyDocument:
    """Return the policy that lets none invoke `function` for whom these conditions hold, by whatever name it goes."""
    arn = function.function.function_arn
    deny = iam.PolicyStatement(
        sid=sid,
        effect=iam.Effect.DENY,
        principals=[iam.AnyPrincipal()],
        actions=["lambda:InvokeFunction", "lambda:InvokeAsync"],  # the latter is deprecated, and answers
        resources=[arn, f"{arn}:*"],
        conditions=whom,
    )
    return iam.PolicyDocument(statements=[deny])
