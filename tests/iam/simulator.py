"""The synthesized policies as IAM would judge them: roles and resources of all stacks, and requests put to them.

`iam-simulate` evaluates the policies, in one node process for many requests. It is AGPL: a development tool, which
nothing that is deployed imports.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.infrastructure.templates import Deployment, Template
from tests.node_lines import NodeLines

HERE = Path(__file__).parent
ACCOUNT, REGION = "111122223333", "eu-central-1"
PSEUDO = {"AWS::AccountId": ACCOUNT, "AWS::Region": REGION, "AWS::Partition": "aws", "AWS::URLSuffix": "amazonaws.com"}
ARNS = {
    "AWS::DynamoDB::Table": f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{{}}",
    "AWS::KMS::Key": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{{}}",
    "AWS::S3::Bucket": "arn:aws:s3:::{}",
    "AWS::SQS::Queue": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{{}}",
    "AWS::SNS::Topic": f"arn:aws:sns:{REGION}:{ACCOUNT}:{{}}",
    "AWS::Lambda::Function": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{{}}",
    "AWS::IAM::Role": f"arn:aws:iam::{ACCOUNT}:role/{{}}",
    "AWS::Cognito::UserPool": f"arn:aws:cognito-idp:{REGION}:{ACCOUNT}:userpool/{{}}",
    "AWS::Logs::LogGroup": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{{}}:*",
    "AWS::SecretsManager::Secret": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{{}}",
    "AWS::Bedrock::Guardrail": f"arn:aws:bedrock:{REGION}:{ACCOUNT}:guardrail/{{}}",
}
NAMES = ("TableName", "BucketName", "QueueName", "FunctionName", "RoleName", "LogGroupName")


@dataclass(frozen=True)
class Account:
    """A stage as it would stand in an account: every expression of its templates has a value."""

    deployment: Deployment

    @cached_property
    def exports(self) -> dict[str, tuple[Template, Any]]:
        return {
            self.value(output["Export"]["Name"], template): (template, output["Value"])
            for template in self.deployment.parts.values()
            for output in template.document.get("Outputs", {}).values()
            if "Export" in output
        }

    def value(self, expression: Any, template: Template) -> Any:
        """Return what CloudFormation would make of an expression; one this does not know is an error."""
        match expression:
            case {"Ref": name} if name in PSEUDO:
                return PSEUDO[name]
            case {"Ref": name}:
                kind = template.document["Resources"][name]["Type"]
                return self.arn(name, template) if kind == "AWS::SNS::Topic" else self.name(name, template)
            case {"Fn::GetAtt": [name, "Arn" | "GuardrailArn"]}:
                return self.arn(name, template)
            case {"Fn::Join": [separator, pieces]}:
                return str(separator).join(self.value(piece, template) for piece in pieces)
            case {"Fn::ImportValue": name}:
                home, exported = self.exports[self.value(name, template)]
                return self.value(exported, home)
            case {**entries}:
                assert not any(key.startswith("Fn::") for key in entries), expression
                return {key: self.value(inner, template) for key, inner in entries.items()}
            case list():
                return [self.value(inner, template) for inner in expression]
        return expression

    def name(self, logical_id: str, template: Template) -> str:
        """Return the physical name; where CloudFormation makes one up, the logical id stands for it."""
        properties = template.document["Resources"][logical_id].get("Properties", {})
        given = [properties[name] for name in NAMES if name in properties]
        return str(self.value(given[0], template)) if given else logical_id.lower()

    def arn(self, logical_id: str, template: Template) -> str:
        return ARNS[template.document["Resources"][logical_id]["Type"]].format(self.name(logical_id, template))

    def arns(self, kind: str) -> dict[str, str]:
        """Return the ARNs of all resources of a type, by logical id."""
        return {name: self.arn(name, t) for t in self.deployment.parts.values() for name in t.of_type(kind)}

    @cached_property
    def tables(self) -> dict[str, str]:
        """Return the tables' ARNs, by the construct's name (`Runs`)."""
        return {name[:-8]: arn for name, arn in self.arns("AWS::DynamoDB::Table").items()}

    @cached_property
    def functions(self) -> dict[str, str]:
        """Return the functions' ARNs, by door."""
        doors = self.deployment.functions()
        return {
            door: ARNS["AWS::Lambda::Function"].format(function["FunctionName"]) for door, function in doors.items()
        }

    @cached_property
    def policies(self) -> dict[str, list[dict[str, Any]]]:
        """Return the identity policies of every role, by door."""
        found: dict[str, list[dict[str, Any]]] = {door: [] for door in self.roles}
        by_arn = {arn: door for door, arn in self.roles.items()}
        for template in self.deployment.parts.values():
            for policy in template.properties("AWS::IAM::Policy"):
                for role in policy["Roles"]:
                    door = by_arn[self.arn(role["Ref"], template)]
                    found[door].append(self.value(policy["PolicyDocument"], template))
        return found

    @cached_property
    def roles(self) -> dict[str, str]:
        """Return the ARNs of the functions' roles and of the data role, by door."""
        prefix = ARNS["AWS::IAM::Role"].format(f"keepgate-{self.deployment.stage.name}-")
        arns = self.arns("AWS::IAM::Role").values()
        return {
            arn.removeprefix(prefix).removesuffix(f"-{REGION}").replace("-", "_"): arn
            for arn in arns
            if arn.startswith(prefix)
        }

    @cached_property
    def trust(self) -> dict[str, dict[str, Any]]:
        """Return who may assume each role, by door."""
        by_arn = {arn: door for door, arn in self.roles.items()}
        return {
            by_arn[self.arn(name, template)]: self.value(role["Properties"]["AssumeRolePolicyDocument"], template)
            for template in self.deployment.parts.values()
            for name, role in template.of_type("AWS::IAM::Role").items()
            if self.arn(name, template) in by_arn
        }

    @cached_property
    def key_policy(self) -> dict[str, Any]:
        """Return the policy of the stage's key. Without one that says so, no identity policy counts for a key."""
        template = self.deployment["State"]
        policy: dict[str, Any] = self.value(template.only("AWS::KMS::Key")["KeyPolicy"], template)
        return policy

    @cached_property
    def locks(self) -> dict[str, dict[str, Any]]:
        """Return the functions' resource policies, by door."""
        doors = {arn: door for door, arn in self.functions.items()}
        return {
            doors[self.value(policy["ResourceArn"], template)]: self.value(policy["PolicyDocument"], template)
            for template in self.deployment.parts.values()
            for policy in template.properties("AWS::Lambda::ResourcePolicy")
        }


@dataclass(frozen=True)
class Request:
    """One request, by the session of a role."""

    door: str
    action: str
    resource: str
    context: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    session_policy: dict[str, Any] | None = None
    resource_policy: dict[str, Any] | None = None
    policies: Sequence[dict[str, Any]] | None = None
    """Instead of the role's own."""


class Simulator(NodeLines):
    """Open it around the tests that need it."""

    def __init__(self, account: Account) -> None:
        super().__init__(HERE / "simulate.mjs")
        self.account = account

    def decide(self, *requests: Request) -> list[str]:
        """Return `Allowed`, `ImplicitlyDenied` or `ExplicitlyDenied` for each."""
        decisions: list[str] = self.ask([self._asked(request) for request in requests])
        return decisions

    def allowed(self, *requests: Request) -> list[bool]:
        return [decision == "Allowed" for decision in self.decide(*requests)]

    def _asked(self, request: Request) -> dict[str, Any]:
        role = self.account.roles[request.door]
        own = self.account.policies[request.door] if request.policies is None else request.policies
        return {
            "principal": role.replace(":iam:", ":sts:").replace(":role/", ":assumed-role/") + "/session",
            "account": ACCOUNT,
            "action": request.action,
            "resource": request.resource,
            "context": {"aws:PrincipalArn": role, **request.context},
            "session_policy": request.session_policy,
            "resource_policy": request.resource_policy,
            "policies": list(own),
        }
