"""The synthesized templates as the tests ask about them: by type and property, never by logical id."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aws_cdk import App

from stacks.application import FLAGS, build
from stacks.bundling import source_only
from stacks.config import Stage


@dataclass(frozen=True)
class Template:
    """One stack's template."""

    stage: Stage
    part: str
    document: dict[str, Any]

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the resources of a type, by logical id."""
        return {name: r for name, r in self.document["Resources"].items() if r["Type"] == kind}

    def properties(self, kind: str) -> list[dict[str, Any]]:
        return [resource.get("Properties", {}) for resource in self.of_type(kind).values()]

    def only(self, kind: str) -> dict[str, Any]:
        [properties] = self.properties(kind)
        return properties


@dataclass(frozen=True)
class Statement:
    """An IAM statement that allows, with actions and resources as flat texts."""

    door: str
    """The part of the role's name between stage and region."""
    actions: frozenset[str]
    resources: frozenset[str]
    conditions: Mapping[str, Any]


@dataclass(frozen=True)
class Deployment:
    """All templates of a stage."""

    stage: Stage
    parts: Mapping[str, Template]

    def __getitem__(self, part: str) -> Template:
        return self.parts[part]

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """Return the properties of all resources of a type, of all stacks."""
        return [properties for template in self.parts.values() for properties in template.properties(kind)]

    def types(self) -> set[str]:
        return {r["Type"] for template in self.parts.values() for r in template.document["Resources"].values()}

    def functions(self) -> dict[str, dict[str, Any]]:
        """Return the functions by door."""
        return {self.door_of(f["FunctionName"]): f for f in self.of_type("AWS::Lambda::Function")}

    def door_of(self, function: str) -> str:
        """Return the door that a function's name stands for."""
        name = function.removeprefix(f"keepgate-{self.stage.name}-").removesuffix("-by-tenant")
        return name.replace("-", "_")

    def statements(self) -> Iterator[Statement]:
        """Yield what every role of every stack is allowed."""
        for template in self.parts.values():
            doors = {name: self._door(role) for name, role in template.of_type("AWS::IAM::Role").items()}
            for policy in template.properties("AWS::IAM::Policy"):
                [role] = policy["Roles"]
                for statement in policy["PolicyDocument"]["Statement"]:
                    assert statement["Effect"] == "Allow"
                    yield Statement(
                        doors[role["Ref"]],
                        frozenset(as_list(statement["Action"])),
                        frozenset(flat(r, template) for r in as_list(statement["Resource"])),
                        statement.get("Condition", {}),
                    )

    def _door(self, role: dict[str, Any]) -> str:
        name = flat(role["Properties"].get("RoleName", "unnamed"))
        return name.removeprefix(f"keepgate-{self.stage.name}-").removesuffix("-<AWS::Region>").replace("-", "_")


def synthesize(stage: Stage, outdir: Path) -> Deployment:
    """Write and read the templates of a stage. The synth fails on any finding of cdk-nag that is not accepted."""
    app = App(outdir=str(outdir), context=FLAGS)
    build(app, stage, source_only())
    app.synth()
    parts = {}
    for path in outdir.glob("*.template.json"):
        part = path.name.removeprefix(f"Keepgate-{stage.name}-").removesuffix(".template.json")
        parts[part] = Template(stage, part, json.loads(path.read_text(encoding="utf-8")))
    return Deployment(stage, parts)


def flat(value: Any, template: Template | None = None) -> str:
    """Return a value with CloudFormation's functions in it as one text; a resource is named by its type."""
    match value:
        case str():
            return value
        case {"Fn::Join": [separator, pieces]}:
            return str(separator).join(flat(piece, template) for piece in pieces)
        case {"Ref": name}:
            return f"<{_kind(name, template)}>"
        case {"Fn::GetAtt": [name, attribute]}:
            return f"<{_kind(name, template)}.{attribute}>"
        case {"Fn::ImportValue": name}:
            return f"<{re.sub(r'^Keepgate-[a-z]+-State[:-]', '', name)}>"
    raise AssertionError(f"an expression the tests don't read: {value}")


def _kind(name: str, template: Template | None) -> str:
    known = template.document["Resources"] if template else {}
    return str(known[name]["Type"]) if name in known else name


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
