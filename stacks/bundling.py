"""Builds what the functions are deployed as, without Docker: packages for the Lambda runtime as uv.lock pins them.

Three bundles: `agent` for the function that decides, with Cedar; `tools` for the one that runs tools, with the client
of servers outside; `doors` for all others, with neither. A bundle is a folder below build/, named by a hash of all that
goes into it, so an unchanged one is built once. Bytecode is compiled ahead, because the code's folder is read-only
there and every cold start would compile everything again.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
SOURCES = ("agent", "lambdas", "support_desk")
ONLY_FOR_AGENT = ("cedarpy",)
ONLY_FOR_TOOLS = ("mcp",)
FOR_BOTH = ("jsonschema",)
RUNTIME_PYTHON = (3, 13)
PLATFORM = "aarch64-manylinux2014"


@dataclass(frozen=True)
class Bundles:
    """The folders that `run_agent`, `run_tool`, and all other functions are made of."""

    agent: Path
    tools: Path
    doors: Path


def source_only() -> Bundles:
    """Return bundles without packages, for the local cloud, which has them, and for tests of templates."""
    folder = _cached("source", [], _copy_sources)
    return Bundles(agent=folder, tools=folder, doors=folder)


def with_packages() -> Bundles:
    """Return bundles as they run on AWS.

    Raises:
        subprocess.CalledProcessError: uv can't fetch a package for the runtime, or it has no wheel for it.
    """
    compiler = find_interpreter(RUNTIME_PYTHON)
    if compiler is None:
        version = ".".join(map(str, RUNTIME_PYTHON))
        sys.stderr.write(
            f"\nWARNING: no Python {version} found: the functions go without bytecode, a cold start takes 4 to 5 times"
            f" as long.\n         Put python{version} on PATH (or `pyenv install {version}`) before you deploy.\n\n"
        )
    return Bundles(
        agent=_bundle("agent", ONLY_FOR_TOOLS, compiler),
        tools=_bundle("tools", ONLY_FOR_AGENT, compiler),
        doors=_bundle("doors", (*ONLY_FOR_AGENT, *ONLY_FOR_TOOLS, *FOR_BOTH), compiler),
    )


def find_interpreter(version: tuple[int, int]) -> Path | None:
    """Return an interpreter of exactly this minor version, from PATH or pyenv, or None."""
    name = f"python{version[0]}.{version[1]}"
    found = shutil.which(name)
    candidates = [Path(sys.executable), *([Path(found)] if found else [])]
    if shutil.which("pyenv"):
        pyenv = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=False)
        candidates += sorted(Path(pyenv.stdout.strip()).glob(f"versions/{version[0]}.{version[1]}.*/bin/{name}"))
    return next((candidate for candidate in candidates if _version_of(candidate) == version), None)


def _version_of(interpreter: Path) -> tuple[int, ...] | None:
    """Return what an interpreter says it is; pyenv's shims stand on PATH for versions that don't start."""
    command = [str(interpreter), "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return tuple(map(int, said.stdout.split()))


def _bundle(name: str, without: Sequence[str], compiler: Path | None) -> Path:
    prune = [f"--prune={package}" for package in without]
    export = [_uv(), "export", "--frozen", "--quiet", "--no-default-groups", "--no-header", "--no-annotate", *prune]
    requirements = subprocess.run(export, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    def build(folder: Path) -> None:
        _install(requirements, folder)
        shutil.rmtree(folder / "bin", ignore_errors=True)
        _copy_sources(folder)
        if compiler is not None:
            compile_all = [str(compiler), "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
            # A traceback names the file as it is on Lambda, not a path of the machine that built it.
            subprocess.run([*compile_all, "-s", str(folder), "-p", "/var/task", str(folder)], check=True)

    return _cached(f"bundle-{name}", [requirements, str(compiler and RUNTIME_PYTHON), PLATFORM], build)


def _install(requirements: str, folder: Path) -> None:
    version = ".".join(map(str, RUNTIME_PYTHON))
    runtime = ["--python-platform", PLATFORM, "--python-version", version, "--only-binary", ":all:"]
    command = [_uv(), "pip", "install", "--quiet", "--require-hashes", "--no-deps", "--target", str(folder), *runtime]
    subprocess.run([*command, "-r", "-"], input=requirements, cwd=ROOT, text=True, check=True)


def _uv() -> str:
    pinned = ROOT / ".tools" / "bin" / "uv"
    return str(pinned) if pinned.exists() else "uv"


def _copy_sources(folder: Path) -> None:
    for path in _source_files():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _source_files() -> Iterator[Path]:
    for source in SOURCES:
        yield from sorted(p for p in (ROOT / source).rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def _cached(name: str, inputs: Sequence[str], build: Callable[[Path], None]) -> Path:
    """Return the folder `name` for these inputs and today's sources, built by `build` if it isn't there yet."""
    digest = hashlib.sha256("\0".join([Path(__file__).read_text(encoding="utf-8"), *inputs]).encode())
    for path in _source_files():
        digest.update(f"\0{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    folder = BUILD / f"{name}-{digest.hexdigest()[:16]}"
    if folder.exists():
        return folder
    BUILD.mkdir(exist_ok=True)
    older = list(BUILD.glob(f"{name}-*"))
    with TemporaryDirectory(dir=BUILD, prefix=".") as temporary:
        unfinished = Path(temporary) / name
        unfinished.mkdir()
        build(unfinished)
        if not folder.exists():  # another synth may have been faster
            unfinished.rename(folder)
    for path in older:
        shutil.rmtree(path, ignore_errors=True)
    return folder
