"""Add a tool to the support desk: `make new-tool NAME=lookup_parcel EFFECT=read`.

What it writes works, is tested, and is as narrow as the effect allows: reads are permitted to users and approvers of
the tenant, everything else only once a person has approved it. Loosen that, and fill in what the tool is really about,
in the files it names. Nothing is written where the name can't be used.

A release that some stage runs is never changed: then the tool goes into the next one, which a stage takes up when
stacks/config.py names it.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from string import Template

from agent.contracts import Effect
from local import tool_templates as templates
from local.processes import ROOT
from stacks.config import STAGES

DESK = ROOT / "support_desk"
TESTS = ROOT / "tests" / "unit"
NAME = re.compile(r"[a-z]{2,20}(_[a-z]{2,20}){1,3}")
RELEASE = re.compile(r"support-desk-(\d+)\.toml")
ONCE_APPROVED = " &&\n  context.approved"


class NameUnusable(Exception):
    """There is such a tool, or there can be none."""


class ShapeUnknown(Exception):
    """A file that the tool has to be added to is not as new-tool knows it."""


def add(name: str, effect: Effect) -> list[Path]:
    """Write the tool and everything that belongs to it, and return the files.

    Raises:
        NameUnusable, ShapeUnknown: nothing was written.
    """
    if not NAME.fullmatch(name):
        raise NameUnusable(f"{name!r} is no name: a verb and a noun, such as lookup_parcel")
    if (DESK / "tools" / f"{name}.py").exists() or re.search(rf"\baction {name}\b", _schema().read_text()):
        raise NameUnusable(f"there is a tool {name}")
    words = _words(name, effect)
    source, release = _release_files()
    texts = dict(
        [
            (DESK / "tools" / f"{name}.py", _tool_template(effect).substitute(words)),
            (TESTS / f"test_{name}.py", _test(words, effect)),
            _changed(_schema(), lambda text: _with_action(text, words)),
            _changed(DESK / "policies" / "support_desk.cedar", lambda text: text + templates.PERMIT.substitute(words)),
            _changed(DESK / "limits.toml", lambda text: text + templates.LIMITS.substitute(words)),
            _changed(DESK / "tools" / "__init__.py", lambda text: _registered(text, name)),
            (release, _changed(source, lambda text: _offered(text, name))[1]),
            _changed(DESK / "policy_matrix.py", lambda text: _with_case(text, words, release.stem)),
            _changed(TESTS / "test_policy.py", lambda text: _with_example(text, words)),
        ]
    )
    if effect is not Effect.READ:
        texts |= [_changed(TESTS / "test_policy_matrix.py", lambda text: _always_asked(text, name))]
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    code = [str(path) for path in texts if path.suffix == ".py"]
    _run("ruff", "check", "--select", "I", "--fix", "--quiet", *code)
    _run("ruff", "format", "--quiet", *code)
    _run("support_desk.lock_contracts")
    _run("support_desk.policy_matrix", "write", quiet=True)
    return list(texts)


def _words(name: str, effect: Effect) -> dict[str, str]:
    """Return what the templates are filled with."""
    verb, _, _ = name.partition("_")
    kind = name.rpartition("_")[2]
    is_read, has_text = effect is Effect.READ, effect in {Effect.WRITE, Effect.EXTERNAL}
    argument, value = ("text", "Hello.") if has_text else (f"{kind}_id", f"{kind}-1")
    return {
        "name": name,
        "Name": "".join(word.title() for word in name.split("_")),
        "kind": kind,
        "Kind": kind.title(),
        "EFFECT": effect.name,
        "Doing": verb.title(),
        "Outcome": "Whoever sends it picks it up." if effect is Effect.EXTERNAL else "Nothing else changes.",
        "status": "to_send" if effect is Effect.EXTERNAL else "saved",
        "argument": argument,
        "arguments": f'{{"{argument}": "{value}"}}',
        "parents": "" if is_read else "in [effects] ",
        "id": name.replace("_", "-") + ("" if is_read else "-once-approved"),
        "approved": "" if is_read else ONCE_APPROVED,
        "verdict": "allow" if is_read else "ask",
        "suffix": "have_it" if is_read else "have_it_done_once_a_person_approved",
        "allowance": "calls.user_minute" if is_read else "calls.user_day",
        "number": "30" if is_read else "20",
    }


def _tool_template(effect: Effect) -> Template:
    match effect:
        case Effect.READ:
            return templates.READ
        case Effect.WRITE | Effect.EXTERNAL:
            return templates.ADD
        case Effect.DESTRUCTIVE:
            return templates.REMOVE


def _test(words: dict[str, str], effect: Effect) -> str:
    own = {Effect.READ: templates.TESTS_READ, Effect.DESTRUCTIVE: templates.TESTS_REMOVE}
    tests = own.get(effect, templates.TESTS_ADD).substitute(words)
    return templates.TEST.substitute(words, tests=tests)


def _schema() -> Path:
    return DESK / "policies" / "schema.cedarschema"


def _with_action(text: str, words: dict[str, str]) -> str:
    declared = re.findall(r"(?m)^entity ([\w, ]+?)\s*\{", text)
    entities = {name.strip() for names in declared for name in names.split(",")}
    entity = "" if words["Kind"] in entities else templates.ENTITY.substitute(words)
    return text + entity + templates.ACTION.substitute(words)


def _registered(text: str, name: str) -> str:
    line = f"from support_desk.tools.{name} import {name}\n"
    text = _put(r"(?m)^(from support_desk\.tools\.)", rf"{line}\1", text, count=1)
    return _put(r"(?m)^(_OWN = \([^)]*?),?\s*\)", rf"\1, {name})", text, count=1)


def _release_files() -> tuple[Path, Path]:
    """Return the newest release, and the one that the tool goes into: the same, or the next where a stage runs that."""
    folder = DESK / "releases"
    numbers = {int(found[1]) for path in folder.iterdir() if (found := RELEASE.fullmatch(path.name))}
    newest = folder / f"support-desk-{max(numbers)}.toml"
    if newest.stem not in {stage.release for stage in STAGES.values()}:
        return newest, newest
    return newest, folder / f"support-desk-{max(numbers) + 1}.toml"


def _offered(text: str, name: str) -> str:
    return _put(r"(?m)^(tools = \[[^\]]*?),?\s*\]", rf'\1, "{name}"]', text, count=1)


def _with_case(text: str, words: dict[str, str], release: str) -> str:
    case = f'    Case("{words["name"]}", "one {words["kind"]}", {words["arguments"]}),\n)\n'
    text = _put(r"(?ms)^(CASES = \(\n.*?)^\)\n", lambda found: found[1] + case, text, count=1)
    return _put(r'(?m)^RELEASE = ".*"$', f'RELEASE = "{release}"', text)


def _with_example(text: str, words: dict[str, str]) -> str:
    name = words["name"]
    text = _put(r"(?m)^(EXAMPLES: .* = \{)$", rf'\1\n    "{name}": {words["arguments"]},', text, count=1)
    if words["verdict"] == "allow":
        return _put(r"(?m)^(    Role\.(?:USER|APPROVER): \{)", rf'\1"{name}", ', text)
    pairs = ", ".join(f'(Role.{role}, "{name}")' for role in ("USER", "APPROVER"))
    return _put(r"(?m)^(MAY_ONCE_APPROVED = \{)", rf"\1{pairs}, ", text, count=1)


def _always_asked(text: str, name: str) -> str:
    return _put(r"(?m)^(ALWAYS_ASKED = \{)", rf'\1"{name}", ', text, count=1)


def _changed(path: Path, change: Callable[[str], str]) -> tuple[Path, str]:
    before = path.read_text(encoding="utf-8")
    try:
        return path, change(before)
    except ShapeUnknown:
        raise ShapeUnknown(f"{path.relative_to(ROOT)} has not the shape that new-tool knows") from None


def _put(pattern: str, change: str | Callable[[re.Match[str]], str], text: str, *, count: int = 0) -> str:
    changed, found = re.subn(pattern, change, text, count=count)
    if not found:
        raise ShapeUnknown(pattern)
    return changed


def _run(module: str, *arguments: str, quiet: bool = False) -> None:
    command = [sys.executable, "-m", module, *arguments]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL if quiet else None)


def main() -> None:
    """Add the tool that the command line names."""
    parser = argparse.ArgumentParser(prog="make new-tool", description="Add a tool to the support desk.")
    parser.add_argument("name")
    parser.add_argument("effect", type=Effect, choices=list(Effect))
    asked = parser.parse_args()
    try:
        written = add(asked.name, asked.effect)
    except (NameUnusable, ShapeUnknown) as unusable:
        parser.error(f"{unusable}; nothing was written")
    sys.stdout.write("\nWritten or changed:\n" + "".join(f"  {path.relative_to(ROOT)}\n" for path in written))
    sys.stdout.write("Next: make it do what it is for (docs/tools.md), then `make lock-contracts` and `make check`.\n")


if __name__ == "__main__":
    main()
