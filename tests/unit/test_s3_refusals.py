"""Servers that only look like S3 are refused at the start, and credentials that others can read are, too."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto import mock_aws

from img2mesh import s3
from img2mesh.errors import InputError, TransientError
from img2mesh.storage import Store, open_store


@pytest.fixture
def pretender(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """moto: it takes what does not match its checksum."""
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with mock_aws():
        import boto3

        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
        yield open_store("s3://bucket/store")


def test_a_server_that_checks_nothing_is_refused_in_one_line(pretender: Store) -> None:
    with pytest.raises(InputError) as caught:
        pretender.check()
    print(caught.value)
    assert "\n" not in str(caught.value)
