"""The AWS clients of the doors: the only place that builds them.

Once per process, when first asked for, with their timeouts said aloud: the SDK's defaults wait a minute and try five
times.
"""

import math
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_bedrock_runtime import BedrockRuntimeClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sts.type_defs import CredentialsTypeDef

CONNECT_TIMEOUT_S = 2
READ_TIMEOUT_S = 3
"""For a call that answers at once: a table, the queue, an asynchronous invoke."""
FACTS_TIMEOUT_S = 5
"""For what a resource is: the start of a function and a read; a run does not hear meanwhile."""
FILE_TIMEOUT_S = 30
"""For an object of the bucket."""
TIMEOUT_STEP_S = 10


def bedrock(read_timeout_s: float) -> "BedrockRuntimeClient":
    """Return a client for one model call, patient for this long."""
    made: BedrockRuntimeClient = _patient("bedrock-runtime", _step(read_timeout_s))
    return made


def patient_lambda(read_timeout_s: float) -> "LambdaClient":
    """Return a client for one tool call, patient for this long."""
    made: LambdaClient = _patient("lambda", _step(read_timeout_s))
    return made


def _step(seconds: float) -> int:
    """Round up, so that timeouts cut short by a lease's end don't each build a client."""
    return math.ceil(seconds / TIMEOUT_STEP_S) * TIMEOUT_STEP_S


@cache
def _patient(service: str, read_timeout_s: int) -> Any:  # noqa: ANN401 - the caller says which
    # No retries of the SDK: a model call's attempts are the loop's to make and to pay for, and a tool whose answer was
    # lost must not be run again.
    return new(service, read_timeout_s=read_timeout_s, attempts=1)


def tenant_dynamodb(credentials: "CredentialsTypeDef") -> "DynamoDBClient":
    """Return a client with a tenant's credentials for its items."""
    made: DynamoDBClient = new("dynamodb", credentials=credentials)
    return made


def tenant_s3(credentials: "CredentialsTypeDef") -> "S3Client":
    """Return a client with a tenant's credentials for its files."""
    made: S3Client = new("s3", read_timeout_s=FILE_TIMEOUT_S, credentials=credentials)
    return made


def tenant_secrets(credentials: "CredentialsTypeDef") -> "SecretsManagerClient":
    """Return a client with a tenant's credentials for its secrets."""
    made: SecretsManagerClient = new("secretsmanager", credentials=credentials)
    return made


@cache
def client(service: str) -> Any:  # noqa: ANN401 - as above
    """Return the process's client of a service, for calls that answer at once."""
    return new(service)


def new(
    service: str,
    *,
    read_timeout_s: int = READ_TIMEOUT_S,
    attempts: int = 2,
    credentials: "CredentialsTypeDef | None" = None,
) -> Any:  # noqa: ANN401 - as above
    """Return a new client: with the function's own credentials, or those of whom it acts for."""
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": attempts},
        tcp_keepalive=True,
    )
    held = (
        {}
        if credentials is None
        else {
            "aws_access_key_id": credentials["AccessKeyId"],
            "aws_secret_access_key": credentials["SecretAccessKey"],
            "aws_session_token": credentials["SessionToken"],
        }
    )
    make: Any = boto3.client  # it has an overload for each service's name
    return make(service, config=config, **held)
