"""Writes the CloudFormation templates of a stage: `python app.py --stage prod`, or `cdk deploy` through cdk.json."""

import argparse
import os
import sys
from importlib import import_module

from aws_cdk import App

from agent.configuration import require_deployable
from agent.errors import ConfigurationInvalid
from stacks.application import FLAGS, build
from stacks.bundling import source_only, with_packages
from stacks.config import STAGES
from stacks.contracts import ROOT


def main() -> None:
    """Synthesize one stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=STAGES, default="dev")
    stage = STAGES[parser.parse_args().stage]
    # Under `cdk`, the CLI says where it wants the templates.
    app = App(outdir=os.environ.get("CDK_OUTDIR", f"cdk.out.{stage.name}"), context=FLAGS)
    stage = stage.overridden(app.node.get_all_context())
    # Rights are generated from the lock: it must be what the code says, and reviewed as such.
    tools = import_module(f"{stage.agent}.tools").TOOLS
    require_deployable(ROOT / stage.agent, tools, release=stage.release, stage=stage.name, stages=STAGES)
    build(app, stage, source_only() if stage.emulated else with_packages())
    app.synth()


if __name__ == "__main__":
    try:
        main()
    except ConfigurationInvalid as wrong:
        sys.exit(f"error: {wrong}")
