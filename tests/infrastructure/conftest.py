"""Each stage is synthesized once for all tests: starting CDK's kernel and a synth take seconds."""

import pytest

from stacks.config import STAGES
from tests.infrastructure.templates import Deployment, synthesize


@pytest.fixture(scope="session")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Deployment]:
    return {name: synthesize(stage, tmp_path_factory.mktemp(name)) for name, stage in STAGES.items()}


@pytest.fixture(scope="session")
def prod(deployments: dict[str, Deployment]) -> Deployment:
    return deployments["prod"]


@pytest.fixture(scope="session", params=STAGES)
def deployment(request: pytest.FixtureRequest, deployments: dict[str, Deployment]) -> Deployment:
    return deployments[request.param]
