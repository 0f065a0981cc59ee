"""What the stacks of a stage have in common: name, protection, and locally the account and the way assets travel."""

from aws_cdk import CliCredentialsStackSynthesizer, Environment, Stack
from constructs import Construct

from stacks.config import Stage

LOCAL_ASSETS_BUCKET = "keepgate-local-assets"
"""Made by `local` before it deploys; the emulator is not bootstrapped."""
LOCAL_ACCOUNT = Environment(account="000000000000", region="us-east-1")


class StageStack(Stack):
    """The stack `part` of a stage. Elsewhere than locally it names no account, so one synth serves any."""

    def __init__(self, scope: Construct, part: str, stage: Stage) -> None:
        super().__init__(
            scope,
            f"Keepgate-{stage.name}-{part}",
            description=f"Keepgate {stage.name}: {part.lower()}",
            termination_protection=stage.keeps_data,
            env=LOCAL_ACCOUNT if stage.emulated else None,
            synthesizer=CliCredentialsStackSynthesizer(file_assets_bucket_name=LOCAL_ASSETS_BUCKET)
            if stage.emulated
            else None,
        )
