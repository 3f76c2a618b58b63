"""Servers that only look like S3 are refused at the start, and so are credentials that others can read."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from moto import mock_aws

from img2mesh.errors import InputError
from img2mesh.s3 import S3Store
from img2mesh.storage import open_store


@pytest.fixture
def pretender(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    """moto, which takes what does not match its checksum."""
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with mock_aws():
        store = S3Store("s3://bucket/store", bucket="bucket", prefix="store")
        store._client.create_bucket(Bucket="bucket")
        yield store


def without(store: S3Store, *conditions: str) -> None:
    """Have the server forget some conditions of a PUT, as gateways do."""
    put: Callable[..., Any] = store._client.put_object
    store._client.put_object = lambda **asked: put(**{key: value for key, value in asked.items() if key not in conditions})


@pytest.mark.parametrize(
    ("forgotten", "reason"),
    [(("IfNoneMatch",), "it overwrites"), (("IfMatch",), "ignores If-Match"), ((), "does not check SHA-256")],
)
def test_a_server_that_keeps_no_promises_is_refused_in_one_line(
    pretender: S3Store, forgotten: tuple[str, ...], reason: str
) -> None:
    without(pretender, *forgotten)
    with pytest.raises(InputError, match=reason) as caught:
        pretender.check()
    assert "s3://bucket/store" in str(caught.value)
    assert "SeaweedFS" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(pretender.list()) == []


def test_credentials_that_others_can_read_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    file.chmod(0o644)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    with pytest.raises(InputError, match=f"chmod 600 {file}"):
        open_store("s3://bucket").read("a")


def test_a_role_without_its_profile_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("IMG2MESH_INBOX_PROFILE", "reader")
    with pytest.raises(InputError, match=r"reader.*IMG2MESH_\.\.\._PROFILE"):
        open_store("s3://bucket", "inbox").read("a")
