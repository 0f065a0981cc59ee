"""What the cloud on a laptop lacks: the stage `local` leaves these resource types out of its templates, nothing else.

A test holds the list against the emulator that is installed, so that it stays as short as it can be.
"""

import jsii
from aws_cdk import CfnResource, IAspect
from constructs import IConstruct

from stacks.findings import accept

MISSING_TYPES = {
    "AWS::Lambda::ResourcePolicy": "ministack has no full resource policies; IAM without a grant is refused there",
    "AWS::XRay::SamplingRule": "ministack has no X-Ray; local traces go to a file or an OTLP endpoint, all of them",
}

TLS_POLICIES = {"AWS::S3::BucketPolicy": "AwsSolutions-S10", "AWS::SQS::QueuePolicy": "AwsSolutions-SQS4"}
"""Types that the emulator has and evaluates, with the rule that asks for them: they refuse what comes without TLS."""
NO_TLS = "On the loopback interface there is no TLS; the emulator would refuse every call."


@jsii.implements(IAspect)
class LeaveOutMissingTypes:
    """Takes what the emulator can't make, and what would lock its callers out, from the construct tree."""

    def visit(self, node: IConstruct) -> None:
        """Remove `node` where it is of such a type. Nothing may refer to such a resource."""
        if not isinstance(node, CfnResource) or node.node.scope is None:
            return
        rule = TLS_POLICIES.get(node.cfn_resource_type)
        if rule is None and node.cfn_resource_type not in MISSING_TYPES:
            return
        policy = node.node.scope
        if rule is not None and policy.node.scope is not None:
            accept(policy.node.scope, NO_TLS, rule)
        policy.node.try_remove_child(node.node.id)
