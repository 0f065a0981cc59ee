"""The right to call exactly one model: one that a release pins.

A cross-region profile needs its own ARN and that of the foundation model it routes to; the condition on the latter
says "only through this profile", so the model can't be called past it. A `global.` profile routes to a foundation
model without a region, a geographic one (`us.`, `eu.`, `apac.`) to those of its regions, which AWS may extend.
Source: Amazon Bedrock User Guide, "Prerequisites for inference profiles" and "Global cross-Region inference".
"""

from aws_cdk import Aws, Stack

from stacks.constructs.room_function import RoomFunction
from stacks.findings import accept

ACTIONS = ["bedrock:InvokeModelWithResponseStream"]
"""What ConverseStream asks for; plain Converse and InvokeModel stay refused."""


def allow_model(function: RoomFunction, model_id: str) -> None:
    """Let `function` stream from `model_id` and from no other model."""
    stack = Stack.of(function)
    area, _, model = model_id.partition(".")
    if area not in {"global", "us", "eu", "apac", "jp", "au", "us-gov"}:
        function.may(ACTIONS, [_foundation_model(Aws.REGION, model_id)])
        return
    profile = stack.format_arn(service="bedrock", resource="inference-profile", resource_name=model_id)
    function.may(ACTIONS, [profile])
    regions = [Aws.REGION, ""] if area == "global" else ["*"]
    if area != "global":
        accept(
            function.role,
            "Which regions of its area a profile routes to is AWS's to extend; the condition names the profile.",
            f"AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:bedrock:*::foundation-model/{model}]",
        )
    function.may(
        ACTIONS,
        [_foundation_model(region, model) for region in regions],
        {"StringEquals": {"bedrock:InferenceProfileArn": profile}},
    )


def _foundation_model(region: str, model: str) -> str:
    return f"arn:{Aws.PARTITION}:bedrock:{region}::foundation-model/{model}"
