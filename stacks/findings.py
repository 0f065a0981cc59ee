"""How a finding of the security packs is accepted: on the smallest construct that has it, with the reason.

The packs run at each synth, which fails on any finding that is not accepted.
"""

from aws_cdk import Acknowledgment, App, Validations
from cdk_nag import AwsSolutionsChecks, ServerlessChecks
from constructs import IConstruct


def check(app: App) -> None:
    """Run cdk-nag's packs over everything in `app` at synth."""
    Validations.of(app).add_plugins(AwsSolutionsChecks(app), ServerlessChecks(app))


def accept(construct: IConstruct, reason: str, *rules: str) -> None:
    """Accept what these rules (`AwsSolutions-L1`, …) find on `construct`, because of `reason`."""
    Validations.of(construct).acknowledge(
        *(Acknowledgment(id=f"{rule.partition('-')[0]}::{rule}", reason=reason) for rule in rules)
    )
