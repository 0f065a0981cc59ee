"""What every `TenantFiles` does: the suite of the port, in memory and on S3 (moto)."""

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from agent.aws.tenant_files import S3TenantFiles
from agent.testing.tenant_files import MemoryTenantFiles
from agent.tools import TenantFiles

RUN = "run_01JABCDEFGHJKMNPQRSTVWXYZ0"
Files = tuple[TenantFiles, Callable[[str], bytes]]


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="files")
        yield client


@pytest.fixture(params=["memory", "s3"])
def files(request: pytest.FixtureRequest, s3: Any) -> Files:
    if request.param == "memory":
        objects: dict[str, bytes] = {}
        return MemoryTenantFiles(objects, "acme", RUN), objects.__getitem__
    return S3TenantFiles(lambda: s3, "files", "acme", RUN), lambda key: s3.get_object(Bucket="files", Key=key)[
        "Body"
    ].read()


def test_a_file_lies_under_its_tenant_and_run(files: Files) -> None:
    written, read = files
    key = written.write("orders-call_1_0.csv", b"a,b\n", content_type="text/csv")
    assert key == f"T/acme/{RUN}/orders-call_1_0.csv"
    assert read(key) == b"a,b\n"


def test_a_file_of_the_same_name_is_replaced(files: Files) -> None:
    written, read = files
    written.write("a.csv", b"one", content_type="text/csv")
    assert read(written.write("a.csv", b"two", content_type="text/csv")) == b"two"


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/etc", ".hidden", "A.csv", "a b", "a\n", "x" * 101, "é"])
def test_what_is_no_name_is_refused(files: Files, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        files[0].write(name, b"", content_type="text/plain")
