"""What the local stage leaves out of its templates: types the emulator lacks.

A test holds the list against the emulator that is installed, so that it stays as short as it can be.
"""

import jsii
from aws_cdk import CfnResource, IAspect
from constructs import IConstruct

MISSING_TYPES = {
    "AWS::Bedrock::Guardrail": "ministack has its API only; what it would say is spoken by the scripted model's wire",
    "AWS::Bedrock::GuardrailVersion": "a version of what is not there; the stage has no guardrail strength locally",
    "AWS::Lambda::ResourcePolicy": "ministack has no full resource policies; IAM without a grant is refused there",
    "AWS::XRay::SamplingRule": "ministack has no X-Ray; local traces go to a file or an OTLP endpoint, all of them",
}


@jsii.implements(IAspect)
class LeaveOutMissingTypes:
    """Takes resources of the missing types out of the construct tree."""

    def visit(self, node: IConstruct) -> None:
        """Remove `node` where the emulator can't make it. Nothing may refer to such a resource."""
        if isinstance(node, CfnResource) and node.cfn_resource_type in MISSING_TYPES and node.node.scope is not None:
            node.node.scope.node.try_remove_child(node.node.id)
