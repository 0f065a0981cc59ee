"""The role that reaches tenant data: assumed by the tool function alone, for one tenant at a time, by session tag.

Its rights are generated from the agent's contracts, so a tool that needs no write brings no right to write. `Null:
false` beside the leading keys is what keeps out requests that name no key, such as Scan: `ForAllValues` holds for none.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from aws_cdk import ArnFormat, Stack
from aws_cdk import aws_iam as iam
from constructs import Construct

from stacks.config import Stage
from stacks.constructs.room_function import TABLE_KEY_ACTIONS, role_name, via
from stacks.contracts import ToolRights
from stacks.findings import accept
from stacks.state import StateStack

DATA = "tenant_data"
"""The part of the role's name."""
TENANT = "${aws:PrincipalTag/tenant_id}"
SECRET_PLACES = {"deployment": "deployment", "tenant": f"T/{TENANT}", "user": f"T/{TENANT}/U/*"}
"""Where secrets of each scope lie, as `agent.secrets` says; which user's, the session's own policy narrows."""


class DataRole(Construct):
    """What a tool may do with the data of the tenant its session is tagged with."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: Stage,
        rights: ToolRights,
        state: StateStack,
        assumed_by: iam.IRole,
    ) -> None:
        super().__init__(scope, construct_id)
        self.role = iam.Role(
            self,
            "Role",
            role_name=role_name(stage, DATA),
            description=f"Keepgate {stage.name}: one tenant's data, by the session tag tenant_id",
            assumed_by=iam.PrincipalWithConditions(
                iam.ArnPrincipal(assumed_by.role_arn),
                {
                    "StringLike": {"aws:RequestTag/tenant_id": "?*"},
                    "ForAllValues:StringEquals": {"aws:TagKeys": ["tenant_id"]},
                },
            ).with_session_tags(),
        )
        if rights.data_actions:
            own_items = {
                "ForAllValues:StringEquals": {"dynamodb:LeadingKeys": [f"T#{TENANT}"]},
                "Null": {"dynamodb:LeadingKeys": "false"},
            }
            self._may(rights.data_actions, state.tenant_data.table_arn, own_items)
            self._may(TABLE_KEY_ACTIONS, state.key.key_arn, via("dynamodb"))
        # Whatever the contracts say: a result too large for the log goes to the bucket, in the tenant's name.
        own_files = f"T/{TENANT}/*"
        self._may(["s3:PutObject"], f"{state.files_arn}/{own_files}", None)
        self._may(["kms:GenerateDataKey", "kms:Decrypt"], state.key.key_arn, via("s3"))
        found = own_files.replace("${", "<").replace("}", ">")
        accept(
            self.role,
            "Objects have names of their own; the prefix is the tenant of the session's tag.",
            f"AwsSolutions-IAM5[Resource::{state.files_arn_export}/{found}]",
        )

        if rights.secrets:
            self._read_secrets(stage, rights, state)

    def _read_secrets(self, stage: Stage, rights: ToolRights, state: StateStack) -> None:
        names = [f"{stage.secrets_prefix}/{SECRET_PLACES[scope]}/{name}" for scope, name in rights.secrets]
        for name in names:
            # Secrets Manager ends each ARN with a hyphen and six characters of its own.
            arn = Stack.of(self).format_arn(
                service="secretsmanager",
                resource="secret",
                resource_name=f"{name}-??????",
                arn_format=ArnFormat.COLON_RESOURCE_NAME,
            )
            self._may(["secretsmanager:GetSecretValue"], arn, None)
        # For secrets under the deployment's own key; those under AWS's need no right to it.
        self._may(["kms:Decrypt"], state.key.key_arn, via("secretsmanager"))

    def _may(self, actions: Iterable[str], resource: str, conditions: Mapping[str, Any] | None) -> None:
        self.role.add_to_policy(iam.PolicyStatement(actions=list(actions), resources=[resource], conditions=conditions))
