"""A run's files in the bucket. `agent.testing.tenant_files.MemoryTenantFiles` is its twin.

The client holds a session tagged with the tenant, whose role pins the prefix `T/<tenant>/`. Encryption is the bucket's
own default. One AWS call a file.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.aws.dynamodb import store_errors
from agent.tenant_items import file_key

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class S3TenantFiles:
    """`tools.TenantFiles` of one run."""

    def __init__(self, connect: Callable[[], "S3Client"], bucket: str, tenant_id: str, run_id: str) -> None:
        self._connect = connect
        self._bucket = bucket
        self._tenant_id = tenant_id
        self._run_id = run_id

    def write(self, name: str, content: bytes, *, content_type: str) -> str:
        """See `tools.TenantFiles`."""
        key = file_key(self._tenant_id, self._run_id, name)
        with store_errors():
            # Connecting late: most calls write no file, and an S3 client takes longer to build than a call to run.
            self._connect().put_object(Bucket=self._bucket, Key=key, Body=content, ContentType=content_type)
        return key
