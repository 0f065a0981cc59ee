"""What functions are deployed as: the locked packages for their platform, compiled ahead; and a synth with them."""

import json
import os
import subprocess
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest

from stacks import bundling

AARCH64 = 0xB7
"""The machine field of an ELF header."""


@pytest.fixture(scope="module")
def bundles() -> bundling.Bundles:
    return bundling.with_packages()


def _top(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_bundles_have_the_source_and_the_packages_that_functions_import(bundles: bundling.Bundles) -> None:
    for folder in (bundles.doors, bundles.tools, bundles.agent):
        assert {*bundling.SOURCES, "boto3", "pydantic", "aws_lambda_powertools", "opentelemetry"} <= _top(folder)
        assert (folder / "support_desk" / "contracts.lock.json").is_file()
        assert (folder / "support_desk" / "mcp.lock.json").is_file()
        assert _top(folder).isdisjoint({"aws_cdk", "pytest", "ministack", "stacks", "local", "tests", "bin"})


def test_only_who_needs_them_carries_the_policy_engine_and_the_client_of_servers_outside(
    bundles: bundling.Bundles,
) -> None:
    found = {
        package: [name for name in ("agent", "tools", "doors") if package in _top(getattr(bundles, name))]
        for package in ("cedarpy", "mcp", "httpx2", "jsonschema")
    }
    assert found == {"cedarpy": ["agent"], "mcp": ["tools"], "httpx2": ["tools"], "jsonschema": ["agent", "tools"]}


def test_every_binary_is_for_the_processor_and_the_python_of_the_functions(bundles: bundling.Bundles) -> None:
    binaries = [*bundles.agent.rglob("*.so"), *bundles.tools.rglob("*.so")]
    assert len(binaries) >= 2
    for binary in binaries:
        assert int.from_bytes(binary.read_bytes()[18:20], "little") == AARCH64, binary.name
        assert "cpython-313" in binary.name or "abi3" in binary.name, binary.name


def test_bytecode_is_compiled_for_the_runtime_and_never_checked_against_its_source(bundles: bundling.Bundles) -> None:
    compiled = bundles.doors / "lambdas" / "__pycache__" / "shim.cpython-313.pyc"
    interpreter = bundling.find_interpreter(bundling.RUNTIME_PYTHON)
    assert compiled.exists() is (interpreter is not None)
    if interpreter is not None:
        header = compiled.read_bytes()[:8]
        assert int.from_bytes(header[4:8], "little") == 0b01, "hash-based, and not checked"
        assert b"/var/task/lambdas/shim.py" in compiled.read_bytes()


def test_no_interpreter_is_found_for_a_version_that_is_not_installed() -> None:
    assert bundling.find_interpreter((3, 99)) is None


def test_an_interpreter_is_taken_by_what_it_says_it_is_and_not_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar = tmp_path / "python3.99"
    liar.symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bundling.find_interpreter((3, 99)) is None
    assert bundling.find_interpreter((sys.version_info.major, sys.version_info.minor)) == Path(sys.executable)


def test_without_an_interpreter_of_the_runtime_a_build_warns_loudly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(bundling, "BUILD", tmp_path)
    monkeypatch.setattr(bundling, "find_interpreter", lambda version: None)
    folder = bundling.with_packages().doors
    assert "WARNING: no Python 3.13 found" in capsys.readouterr().err
    assert not list(folder.rglob("*.pyc"))


def test_an_unchanged_bundle_is_built_once_and_a_changed_source_makes_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    for source in bundling.SOURCES:
        (root / source).mkdir(parents=True)
    module = root / "agent" / "loop.py"
    module.write_text("a = 1\n")
    (root / "agent" / "__pycache__").mkdir()
    (root / "agent" / "__pycache__" / "loop.cpython-311.pyc").write_bytes(MAGIC_NUMBER)
    monkeypatch.setattr(bundling, "ROOT", root)
    monkeypatch.setattr(bundling, "BUILD", tmp_path / "build")
    first = bundling.source_only().doors
    built = first.stat().st_ctime_ns
    again = bundling.source_only().doors
    assert (again, again.stat().st_ctime_ns) == (first, built)
    assert [p.name for p in first.rglob("*") if p.is_file()] == ["loop.py"]
    module.write_text("a = 2\n")
    second = bundling.source_only().doors
    assert second != first
    assert _top(tmp_path / "build") == {second.name}, "an older bundle is not kept"


def test_the_app_synthesizes_a_stage_as_the_cdk_command_asks_for_it(bundles: bundling.Bundles, tmp_path: Path) -> None:
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    asked = {"CDK_OUTDIR": str(tmp_path), "CDK_CONTEXT_JSON": json.dumps({"create_rate": "3"})}
    command = [sys.executable, "app.py", "--stage", "dev"]
    subprocess.run(command, cwd=bundling.ROOT, env=environment | asked, check=True, capture_output=True, timeout=120)
    edge = (tmp_path / "Keepgate-dev-Edge.template.json").read_text(encoding="utf-8")
    assert '"ThrottlingRateLimit": 3' in edge
    staged = [path for path in tmp_path.glob("asset.*") if (path / "lambdas").is_dir()]
    assert sorted((path / "cedarpy").exists() for path in staged) == [False, False, True]
    assert {_top(path) == _top(bundles.doors) for path in staged} == {True, False}
