"""The role that reaches tenant data: assumed by the tool function alone, for one tenant at a time, by session tag.

Its rights are generated from the agent's contracts, so a tool that needs no write brings no right to write. `Null:
false` beside the leading keys is what keeps out requests that name no key, such as Scan: `ForAllValues` holds for none.
"""

from collections.abc import Iterable, Mapping
from typing import Any

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

    def _may(self, actions: Iterable[str], resource: str, conditions: Mapping[str, Any] | None) -> None:
        self.role.add_to_policy(iam.PolicyStatement(actions=list(actions), resources=[resource], conditions=conditions))
