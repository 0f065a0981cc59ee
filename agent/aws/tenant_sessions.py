"""Sessions for one tenant and one contract: the data role, assumed with the tag `tenant_id` and narrowed to a tool.

The role's policy pins keys and prefix to the tag; the session policy passed here narrows its actions to what the
call's contract lists. So a tool reaches the data of its caller's tenant, by the actions it declared, and nothing else.

Said honestly: this stops careless tools. `run_tool` itself must be able to assume the role for any tenant, and a tool
runs in its process; code written to attack the platform could find the clients that hold those rights in memory, or
ask the function's runtime for them. `drop_ambient_credentials` takes the easy way, the environment, away. Tools are
reviewed code; a stage may isolate environments by tenant.
"""

import json
import os
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import boto3

from agent.aws.dynamodb import store_errors
from agent.aws.secrets import SecretStore
from agent.aws.tenant_data import DynamoDbTenantData
from agent.aws.tenant_files import S3TenantFiles
from agent.contracts import Contract
from agent.identity import Principal
from agent.ports.clock import Clock
from agent.secrets import path
from agent.tools import ReadSecret, no_secret

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sts import STSClient
    from mypy_boto3_sts.type_defs import CredentialsTypeDef

LIFETIME_S = 900
"""The shortest STS gives; longer than the longest contract."""
MARGIN_S = 30
MAX_SESSIONS = 64
"""Kept in the process; the oldest goes first."""
AMBIENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_PROFILE",
)
NOWHERE = {
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""Where else the SDK would look, pointed at nothing."""


def drop_ambient_credentials(environment: MutableMapping[str, str]) -> None:
    """Take the function's own credentials out of its environment, once its own clients are built and hold them."""
    for name in AMBIENT:
        environment.pop(name, None)
    environment.update(NOWHERE)
    # The default session remembers what it found; the new one looks again, and finds nothing.
    boto3.setup_default_session()


@dataclass(frozen=True)
class Connect:
    """Build a client that holds a session's credentials. Clients are built in `lambdas.wiring` alone."""

    dynamodb: "Callable[[CredentialsTypeDef], DynamoDBClient]"
    s3: "Callable[[CredentialsTypeDef], S3Client]"
    secrets: "Callable[[CredentialsTypeDef], SecretsManagerClient]"


@dataclass
class _Session:
    credentials: "CredentialsTypeDef"
    connect: Connect

    def outlives(self, moment: datetime) -> bool:
        return self.credentials["Expiration"] > moment

    @cached_property
    def dynamodb(self) -> "DynamoDBClient":
        return self.connect.dynamodb(self.credentials)

    @cached_property
    def s3(self) -> "S3Client":
        return self.connect.s3(self.credentials)

    @cached_property
    def secrets(self) -> "SecretsManagerClient":
        return self.connect.secrets(self.credentials)


@dataclass
class TenantSessions:
    """`execution.TenantAccess` on AWS. For one call at a time, as a function's environment runs them."""

    sts: "STSClient"
    role_arn: str
    table: str
    bucket: str
    connect: Connect
    clock: Clock
    secret_store: SecretStore
    _sessions: dict[tuple[str, str], _Session] = field(default_factory=dict)

    def data(self, tenant_id: str, contract: Contract) -> DynamoDbTenantData:
        """See `execution.TenantAccess`."""
        session = self._open(tenant_id, session_policy(contract), for_s=contract.timeout_s)
        return DynamoDbTenantData(session.dynamodb, self.table, tenant_id)

    def files(self, tenant_id: str, run_id: str, contract: Contract) -> S3TenantFiles:
        """See `execution.TenantAccess`."""
        return self._files(tenant_id, run_id, session_policy(contract), for_s=contract.timeout_s)

    def results(self, tenant_id: str, run_id: str) -> S3TenantFiles:
        """See `execution.TenantAccess`."""
        return self._files(tenant_id, run_id, _policy(FILE_ACTIONS), for_s=0)

    def secrets(self, principal: Principal, contract: Contract) -> ReadSecret:
        """See `execution.TenantAccess`. The session for it is opened at the first secret that is not remembered."""
        if not contract.secrets:
            return no_secret
        policy = secrets_policy(contract, principal, self.secret_store.prefix)
        return self.secret_store.reader(
            principal, contract, lambda: self._open(principal.tenant_id, policy, for_s=0).secrets
        )

    def _files(self, tenant_id: str, run_id: str, policy: str, *, for_s: int) -> S3TenantFiles:
        return S3TenantFiles(lambda: self._open(tenant_id, policy, for_s=for_s).s3, self.bucket, tenant_id, run_id)

    def _open(self, tenant_id: str, policy: str, *, for_s: int) -> _Session:
        until = self.clock.now() + timedelta(seconds=for_s + MARGIN_S)
        session = self._sessions.pop((tenant_id, policy), None)
        if session is None or not session.outlives(until):
            session = _Session(self._assume(tenant_id, policy), self.connect)
        self._sessions[tenant_id, policy] = session
        while len(self._sessions) > MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return session

    def _assume(self, tenant_id: str, policy: str) -> "CredentialsTypeDef":
        with store_errors():
            answer = self.sts.assume_role(
                RoleArn=self.role_arn,
                RoleSessionName=f"tenant-{tenant_id}",
                DurationSeconds=LIFETIME_S,
                Tags=[{"Key": "tenant_id", "Value": tenant_id}],
                Policy=policy,
            )
        return answer["Credentials"]


FILE_ACTIONS = ("s3:PutObject",)


def session_policy(contract: Contract) -> str:
    """Return the session policy of a contract's calls: what it lists, of what the data role allows."""
    return _policy((*contract.data_actions, *(FILE_ACTIONS if contract.writes_files else ())))


def secrets_policy(contract: Contract, principal: Principal, prefix: str) -> str:
    """Return the session policy for a call's secrets: exactly those of its contract, this tenant and this user.

    The role pins the tenant; what pins the user is this, and the path.
    """
    # Secrets Manager ends each ARN with a hyphen and six characters of its own.
    own = [f"arn:*:secretsmanager:*:*:secret:{path(prefix, need, principal)}-??????" for need in contract.secrets]
    secrets = {"Effect": "Allow", "Action": ["secretsmanager:GetSecretValue"], "Resource": own}
    return json.dumps({"Version": "2012-10-17", "Statement": [secrets, _everywhere("kms:Decrypt")]})


def _policy(actions: tuple[str, ...]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [_everywhere(*actions, "kms:*")]})


def _everywhere(*actions: str) -> dict[str, Any]:
    # Resource `*`, and all of KMS, because a session policy grants nothing: the role says which table, prefix and key.
    return {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
