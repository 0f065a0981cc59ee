"""The stacks of a stage, in the order they are deployed.

Everything between stacks is a value handed over here; nothing is looked up, so a synth needs neither credentials
nor an account.
"""

from aws_cdk import App, Aspects, Tags

from stacks.agent import AgentStack
from stacks.bundling import Bundles
from stacks.config import Stage
from stacks.edge import EdgeStack
from stacks.findings import check
from stacks.local_cloud import LeaveOutMissingTypes
from stacks.observability import ObservabilityStack
from stacks.state import StateStack

FLAGS = {
    "@aws-cdk/aws-iam:minimizePolicies": True,
    "@aws-cdk/core:defaultCrossStackReferences": "strong",  # state can't go while functions hold on to it
    "aws:cdk:version-reporting": False,
}
"""CDK's feature flags, here rather than in cdk.json, so that a synth without the CLI gives the same templates."""


def build(app: App, stage: Stage, bundles: Bundles) -> None:
    """Add the stacks of `stage`, and what checks them, to `app`, their functions made of `bundles`."""
    state = StateStack(app, stage)
    edge = EdgeStack(app, stage, state=state, bundles=bundles)
    agent = AgentStack(app, stage, state=state, pool=edge.sign_in.pool, bundles=bundles)
    ObservabilityStack(app, stage, state=state, agent=agent, edge=edge)
    check(app)
    Tags.of(app).add("keepgate:stage", stage.name)
    if stage.emulated:
        Aspects.of(app).add(LeaveOutMissingTypes())
