"""What the local stage leaves out is what the emulator really lacks, and nothing more."""

import importlib

from stacks.local_cloud import MISSING_TYPES
from tests.infrastructure.templates import Deployment


def _emulated_types() -> set[str]:
    """Read the types from the installed emulator's own table; it has no public list."""
    provisioners = importlib.import_module("ministack.services.cloudformation.provisioners")
    return set(provisioners._RESOURCE_HANDLERS)


def test_each_type_left_out_is_missing_in_the_emulator() -> None:
    assert set(MISSING_TYPES).isdisjoint(_emulated_types())


def test_each_type_left_out_is_used_elsewhere(deployments: dict[str, Deployment]) -> None:
    assert set(MISSING_TYPES) <= deployments["dev"].types()


def test_everything_else_is_deployed_locally_and_can_be(deployments: dict[str, Deployment]) -> None:
    local, dev, prod = (deployments[name].types() for name in ("local", "dev", "prod"))
    left_out = set(MISSING_TYPES)
    assert dev - local == left_out
    assert local <= _emulated_types()
    assert {kind for kind in prod - local if not kind.startswith("AWS::WAFv2::")} == left_out


def test_each_reason_says_something() -> None:
    assert all(len(reason) > 20 for reason in MISSING_TYPES.values())
