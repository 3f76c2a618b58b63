"""A store over `s3://bucket/prefix`, with any server that honours conditional writes and SHA-256 checksums.

Retries are ours alone, by error class: what may pass is tried again with growing pauses, what the server refuses is not. A
server that has answered once gets half a minute to come back; one that never has is reported after a second.
"""

import base64
import contextlib
import hashlib
import os
import random
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from img2mesh.errors import ArtifactError, Img2MeshError, InputError, TransientError
from img2mesh.storage import RENEWAL_S, Entry, Role, Store

_T = TypeVar("_T")
_PASSING_CODES = ("BadDigest", "RequestTimeout", "SlowDown", "XAmzContentChecksumMismatch", "RequestTimeTooSkewed")
FIRST_PAUSES_S = (0.2, 0.8)
PATIENT_PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
# Writers of one key that get in one another's way: each goes again after a while of its own.
CONFLICT_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 3.2)
# Larger objects go in parts, each of which can be tried again alone.
MULTIPART_BYTES = 64 * 1024**2
PART_BYTES = 16 * 1024**2
PAGE_KEYS = 1000
LONGEST_LINK_S = 7 * 24 * 3600


@dataclass(frozen=True, kw_only=True)
class _Object:
    data: bytes
    etag: str
    age_s: float


class S3Store(Store):
    """A prefix in a bucket. Endpoint, region and credentials come from the environment, as for every AWS tool."""

    calls_at_once: ClassVar[int] = 16

    def __init__(self, uri: str, *, bucket: str, prefix: str, role: Role = "work") -> None:
        super().__init__(uri.rstrip("/"))
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self._role = role
        self._made: Any = None
        self._making = threading.Lock()
        self._answered = False

    @property
    def _client(self) -> Any:
        with self._making:
            if self._made is None:
                self._made = _client(f"IMG2MESH_{self._role.upper()}")
        return self._made

    def read(self, key: str) -> bytes | None:
        """See `Store.read`.

        Raises:
            ArtifactError: The bytes do not match the checksum that the server gives with them.
        """
        found = self._get(key)
        return None if found is None else found.data

    def create(self, key: str, data: bytes) -> bool:
        """See `Store.create`."""
        return self._put(key, data, IfNoneMatch="*")

    def write(self, key: str, data: bytes) -> None:
        """See `Store.write`."""
        self._put(key, data)

    def update(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """See `Store.update`: what was read is replaced only if it is still there, by its ETag."""
        for pause_s in CONFLICT_PAUSES_S:
            found = self._get(key)
            before = None if found is None else found.data
            after = change(before)
            condition = {"IfNoneMatch": "*"} if found is None else {"IfMatch": found.etag}
            if after == before or self._put(key, after, **condition):
                return after
            time.sleep(pause_s * random.uniform(0.5, 1.5))
        raise TransientError(f"cannot write {key} in {self.uri}: others write it all the time; submit again later")

    def renew(self, key: str, data: bytes) -> None:
        """See `Store.renew`."""
        try:
            found = self._get(key)
        except ArtifactError:
            found = None
        if found is None or found.data != data or found.age_s > RENEWAL_S:
            self.write(key, data)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        self._call(f"delete {key}", lambda: self._client.delete_object(**self._place(key)), absent=None)

    def size(self, key: str) -> int | None:
        """See `Store.size`."""
        return self._call(
            f"look at {key}", lambda: int(self._client.head_object(**self._place(key))["ContentLength"]), absent=None
        )

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """See `Store.entries`; each page is asked for, and asked for again, on its own."""
        found: list[Entry] = []
        more: dict[str, str] = {}
        nothing: dict[str, Any] = {}
        while True:
            asked = {"Bucket": self.bucket, "Prefix": self.prefix + prefix, "MaxKeys": PAGE_KEYS, **more}
            page = self._call(f"list {prefix or 'the prefix'}", partial(self._client.list_objects_v2, **asked), absent=nothing)
            found += [self._entry(item) for item in page.get("Contents", ())]
            if not page.get("IsTruncated"):
                break
            more = {"ContinuationToken": page["NextContinuationToken"]}
        yield from sorted(found, key=lambda entry: entry.key)

    def link(self, key: str, seconds: int) -> str:
        """See `Store.link`."""
        expires = min(max(seconds, 1), LONGEST_LINK_S)
        made: str = self._client.generate_presigned_url("get_object", Params=self._place(key), ExpiresIn=expires)
        return made

    def abort_uploads(self, older_than_s: float) -> int:
        """See `Store.abort_uploads`."""
        now_s = self.clock_s()
        nothing: dict[str, Any] = {}
        answer = self._call(
            "list uploads",
            lambda: self._client.list_multipart_uploads(Bucket=self.bucket, Prefix=self.prefix),
            absent=nothing,
        )
        stale = [one for one in answer.get("Uploads", ()) if now_s - one["Initiated"].timestamp() > older_than_s]
        for one in stale:
            self._abort(one["Key"], one["UploadId"])
        return len(stale)

    def check(self) -> None:
        """See `Store.check`; the server must also refuse what does not match its checksum, and honour `If-Match`."""
        super().check()
        key = f"probes/{secrets.token_hex(8)}"
        advice = "use one that does (SeaweedFS, AWS S3)"
        try:
            self.write(key, b"first")
            if self._put(key, b"second", IfMatch=f'"{"0" * 32}"'):
                raise InputError(f"{self.uri} cannot be a store: the server ignores If-Match; {advice}")
            if self._takes_a_wrong_checksum(key):
                raise InputError(f"{self.uri} cannot be a store: the server does not check SHA-256; {advice}")
        finally:
            self.delete(key)

    def _takes_a_wrong_checksum(self, key: str) -> bool:
        from botocore.exceptions import ClientError

        wrong = base64.b64encode(hashlib.sha256(b"something else").digest()).decode()
        try:
            self._client.put_object(**self._place(key), Body=b"third", ChecksumSHA256=wrong)
        except ClientError as error:
            if _status(error) >= 500:
                raise _our_error(error, f"probe {self.uri}", self.bucket) from error
            return False
        return True

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + key}

    def _entry(self, item: dict[str, Any]) -> Entry:
        key = str(item["Key"]).removeprefix(self.prefix)
        return Entry(key=key, size_bytes=int(item["Size"]), modified_s=item["LastModified"].timestamp())

    def _get(self, key: str) -> _Object | None:
        def get() -> _Object:
            answer = self._client.get_object(**self._place(key), ChecksumMode="ENABLED")
            return _Object(data=bytes(answer["Body"].read()), etag=answer["ETag"], age_s=_age_s(answer))

        return self._call(f"read {key}", get, absent=None)

    def _put(self, key: str, data: bytes, **condition: str) -> bool:
        if len(data) > MULTIPART_BYTES:
            return self._put_in_parts(key, data, condition)

        def put() -> bool:
            self._client.put_object(**self._place(key), Body=data, ChecksumAlgorithm="SHA256", **condition)
            return True

        return self._call(f"write {key}", put, absent=False)

    def _put_in_parts(self, key: str, data: bytes, condition: dict[str, str]) -> bool:
        place, doing = self._place(key), f"write {key}"
        upload: str = self._call(
            doing, lambda: self._client.create_multipart_upload(**place, ChecksumAlgorithm="SHA256")["UploadId"], absent=""
        )
        done = False
        try:
            parts = [
                self._put_part(key, upload, 1 + start // PART_BYTES, data[start : start + PART_BYTES])
                for start in range(0, len(data), PART_BYTES)
            ]
            complete = partial(
                self._client.complete_multipart_upload, **place, UploadId=upload, MultipartUpload={"Parts": parts}, **condition
            )
            done = self._call(doing, complete, absent=None) is not None
        finally:
            if not done:
                self._abort(place["Key"], upload)
        return done

    def _put_part(self, key: str, upload: str, number: int, data: bytes) -> dict[str, Any]:
        def put() -> dict[str, Any]:
            answer = self._client.upload_part(
                **self._place(key), UploadId=upload, PartNumber=number, Body=data, ChecksumAlgorithm="SHA256"
            )
            return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": answer.get("ChecksumSHA256", "")}

        part = self._call(f"write part {number} of {key}", put, absent=None)
        if part is None:
            raise TransientError(f"cannot write {key} in {self.uri}: somebody has ended its upload; submit again")
        return {name: value for name, value in part.items() if value}

    def _abort(self, full_key: str, upload: str) -> None:
        """Give up an upload; what cannot be reached now is left to `gc`."""
        place = {"Bucket": self.bucket, "Key": full_key, "UploadId": upload}
        with contextlib.suppress(Img2MeshError):
            self._call("end an upload", lambda: self._client.abort_multipart_upload(**place), absent=None)

    def _call(self, doing: str, call: Callable[[], _T], *, absent: _T) -> _T:
        """What the call gives; `absent` where there is no such object, or a condition does not hold."""
        pauses = iter(PATIENT_PAUSES_S if self._answered else FIRST_PAUSES_S)
        conflicts = iter(CONFLICT_PAUSES_S)
        while True:
            try:
                result = self._once(f"{doing} in {self.uri}", call, absent=absent)
            except TransientError as error:
                status = _status(error.__cause__)
                self._answered |= status > 0
                # 409: another writer of the same key is at it; whether it has won is known a moment later.
                pause_s = next(conflicts if status == 409 else pauses, None)
                if pause_s is None:
                    raise
                time.sleep(pause_s * random.uniform(0.5, 1.0))
            else:
                self._answered = True
                return result

    def _once(self, doing: str, call: Callable[[], _T], *, absent: _T) -> _T:
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            FlexibleChecksumError,
            NoCredentialsError,
            ParamValidationError,
        )

        try:
            return call()
        except ClientError as error:
            if _is_absent(error):
                return absent
            raise _our_error(error, doing, self.bucket) from error
        except NoCredentialsError as error:
            raise InputError(f"cannot {doing}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
        except FlexibleChecksumError as error:
            raise ArtifactError(f"cannot {doing}: it does not match its checksum; submit again to compute it anew") from error
        except (ParamValidationError, ValueError) as error:
            raise InputError(f"cannot {doing}: {_line(error)}") from error
        except BotoCoreError as error:
            raise TransientError(f"cannot {doing}: {_line(error)}; check AWS_ENDPOINT_URL, submit again") from error


def _client(role: str) -> Any:
    """A client with the role's own credentials: its variables, its profile, or else those that hold for all."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ProfileNotFound

    profile = os.environ.get(f"{role}_PROFILE")
    names = {"aws_access_key_id": f"{role}_ACCESS_KEY_ID", "aws_secret_access_key": f"{role}_SECRET_ACCESS_KEY"}
    own = {name: value for name, variable in names.items() if (value := os.environ.get(variable))}
    if not own:
        _check_credential_files(profile)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=5,
        read_timeout=60,
        signature_version="s3v4",
        max_pool_connections=32,
        response_checksum_validation="when_supported",
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    try:
        # A session of its own: boto3's shared one keeps the credentials of the first call, and is not for threads.
        return boto3.session.Session(profile_name=None if own else profile, **own).client(
            "s3", config=config, region_name=region
        )
    except ProfileNotFound as error:
        raise InputError(f"{_line(error)}; name one that is there in IMG2MESH_..._PROFILE, or unset it") from error


def _check_credential_files(profile: str | None) -> None:
    if profile is None and os.environ.get("AWS_ACCESS_KEY_ID"):
        return
    file = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    if file.exists() and stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise InputError(f"{file} can be read by others, and it holds credentials: chmod 600 {file}")


def _is_absent(error: Any) -> bool:
    status, code = _status(error), _code(error)
    return status == 412 or (status == 404 and code != "NoSuchBucket")


def _our_error(error: Any, doing: str, bucket: str) -> Img2MeshError:
    status, code = _status(error), _code(error)
    if code == "NoSuchBucket":
        return InputError(f"cannot {doing}: there is no bucket {bucket!r}; create it or correct the name")
    if status in (400, 401, 403) and code not in _PASSING_CODES:
        return InputError(f"cannot {doing}: the server refuses ({code}); check credentials and bucket policy")
    return TransientError(f"cannot {doing}: the server answers {status} {code}; submit again later")


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: Any) -> int:
    """The HTTP status of a server's error; 0 for any other error."""
    response = getattr(error, "response", None)
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) if response else 0


def _age_s(answer: dict[str, Any]) -> float:
    """Seconds since the object was written, by the server's clock on both sides."""
    from email.utils import parsedate_to_datetime

    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    now_s = parsedate_to_datetime(date).timestamp() if date else time.time()
    return float(now_s - answer["LastModified"].timestamp())


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
