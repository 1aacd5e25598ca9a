"""A store in a bucket of S3, or of a server with the same protocol.

An object is created by one PUT with `If-None-Match: *` and a Content-MD5. So the store itself lets
exactly one writer win, and it refuses a body that was damaged on the way. The SHA-256 is stored as
metadata: a writer that finds the name taken can compare without a download.
"""

import base64
import hashlib
import random
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from botocore.exceptions import BotoCoreError, ClientError

from imagemill.db.errors import ObjectConflict, ObjectMissing, StorageError
from imagemill.db.storage import StoredObject
from imagemill.db.storage.keys import checked_key, is_key
from imagemill.db.storage.probe import probe_name, try_out
from imagemill.db.storage.s3_client import ATTEMPTS, READ_SECONDS, s3_client
from imagemill.db.storage.s3_errors import error_code, http_status, s3_errors
from imagemill.db.urls import without_password

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_TAKEN = 412
_BUSY = 409
_ABSENT = 404
_UNKNOWN_HEADER = {"NotImplemented", "InvalidArgument", "InvalidRequest"}


class S3Storage:
    """Objects in `bucket` below `prefix`, which may be empty and has no slash at its ends.

    Credentials and region come from the usual AWS environment, or `keys` are an access key and its
    secret. Any number of threads may share an
    instance. Making one does no I/O.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint_url: str | None = None,
        checksums: Literal["when_supported", "when_required"] = "when_required",
        attempts: int = ATTEMPTS,
        read_seconds: float = READ_SECONDS,
        keys: tuple[str, str] | None = None,
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._endpoint_url = endpoint_url
        self._attempts = attempts
        self._conditional = True
        self._checksums = checksums
        self._read_seconds = read_seconds
        self._keys = keys
        self._made: S3Client | None = None
        self._making = threading.Lock()

    @property
    def uri(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def put(self, key: str, body: bytes, *, media_type: str) -> bool:
        """See `Storage.put`."""
        sha256 = hashlib.sha256(body).hexdigest()
        name = self._name(key)
        with s3_errors(self._bucket, f"write {name}"):
            for attempt in range(self._attempts):
                if attempt:
                    _back_off(attempt)
                if not self._conditional and self._same(name, body, sha256):
                    return False
                outcome = self._create(name, body, sha256, media_type)
                if outcome == "created":
                    return True
                # The object may have been deleted since. Then we try again.
                if outcome == "taken" and self._same(name, body, sha256):
                    return False
        raise StorageError(
            f"can't write {name} in bucket {self._bucket}: "
            f"the store reported a conflict {self._attempts} times"
        )

    def get(self, key: str) -> bytes:
        """See `Storage.get`."""
        name = self._name(key)
        with s3_errors(self._bucket, f"read {name}"):
            try:
                return self._download(name)
            except ClientError as error:
                if error_code(error) in ("NoSuchKey", "404"):
                    raise ObjectMissing(f"no object {key} in {self.uri}") from None
                raise

    def stat(self, key: str) -> StoredObject | None:
        """See `Storage.stat`."""
        name = self._name(key)
        with s3_errors(self._bucket, f"look up {name}"):
            try:
                head = self._client.head_object(Bucket=self._bucket, Key=name)
            except ClientError as error:
                if http_status(error) != _ABSENT:
                    raise
                self._require_bucket()
                return None
        return StoredObject(key=key, size=head["ContentLength"], modified=head["LastModified"])

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """See `Storage.list`. Objects that no key can name are skipped."""
        with s3_errors(self._bucket, f"list {self._prefix}{prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(self._prefix)
                    if is_key(key):
                        yield StoredObject(
                            key=key, size=item["Size"], modified=item["LastModified"]
                        )

    def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        name = self._name(key)
        with s3_errors(self._bucket, f"delete {name}"):
            self._client.delete_object(Bucket=self._bucket, Key=name)

    def leftovers(self) -> Iterator[StoredObject]:
        """See `Storage.leftovers`: there are none, because one request creates an object."""
        return iter(())

    def discard(self, leftover: StoredObject) -> None:
        """See `Storage.discard`: nothing to do."""

    def object_uri(self, key: str) -> str:
        """See `Storage.object_uri`: `s3://bucket/prefix/key`."""
        return f"s3://{self._bucket}/{self._name(key)}"

    def probe(self) -> str:
        """See `Storage.probe`. Finds out whether conditional PUT works, and remembers it."""
        self._conditional = self._honours_conditions()
        try_out(self, probe_name())
        where = f" at {without_password(self._endpoint_url)}" if self._endpoint_url else ""
        how = (
            "conditional PUT is honoured, an object is created once"
            if self._conditional
            else "conditional PUT is not honoured: an object is looked for before it is written"
        )
        return f"{self.uri}{where}: {how}"

    @property
    def _client(self) -> "S3Client":
        with self._making:
            if self._made is None:
                self._made = s3_client(
                    endpoint_url=self._endpoint_url,
                    checksums=self._checksums,
                    attempts=self._attempts,
                    read_seconds=self._read_seconds,
                    keys=self._keys,
                )
            return self._made

    def _name(self, key: str) -> str:
        return self._prefix + checked_key(key)

    def _create(
        self, name: str, body: bytes, sha256: str, media_type: str
    ) -> Literal["created", "taken", "busy"]:
        """Make one PUT, with a condition if the store honours it."""
        condition = {"IfNoneMatch": "*"} if self._conditional else {}
        try:
            self._client.put_object(
                Bucket=self._bucket,
                Key=name,
                Body=body,
                ContentType=media_type,
                ContentMD5=base64.b64encode(_md5(body)).decode(),
                Metadata={"sha256": sha256},
                **condition,  # type: ignore[arg-type]  # a dict of one optional parameter
            )
        except ClientError as error:
            if http_status(error) == _TAKEN:
                return "taken"
            if http_status(error) == _BUSY:
                return "busy"
            raise
        return "created"

    def _same(self, name: str, body: bytes, sha256: str) -> bool:
        """Whether `body` is stored there. Raises `ObjectConflict` if other bytes are."""
        try:
            head = self._client.head_object(Bucket=self._bucket, Key=name)
            there = head["Metadata"].get("sha256")
            if head["ContentLength"] == len(body) and there is None:
                # Another tool has written it, without our metadata. So the bytes are compared.
                there = hashlib.sha256(self._download(name)).hexdigest()
        except ClientError as error:
            if http_status(error) == _ABSENT:
                return False
            raise
        if head["ContentLength"] != len(body) or there != sha256:
            raise ObjectConflict(
                f"another content is stored under {name} in bucket {self._bucket}: "
                f"{head['ContentLength']} bytes there, {len(body)} bytes to be stored"
            )
        return True

    def _download(self, name: str) -> bytes:
        """An object's bytes. The request is repeated if its answer breaks off.

        botocore itself repeats only requests that fail, not answers that are incomplete.
        """
        attempt = 0
        while True:
            answer = self._client.get_object(Bucket=self._bucket, Key=name)
            try:
                return answer["Body"].read()
            except BotoCoreError:
                attempt += 1
                if attempt >= self._attempts:
                    raise
            _back_off(attempt)

    def _require_bucket(self) -> None:
        """Raise if the bucket does not exist. HEAD answers 404 in this case too."""
        self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)

    def _honours_conditions(self) -> bool:
        """Whether a second PUT with `If-None-Match: *` is refused with 412."""
        name = self._name(probe_name())
        self._conditional = True
        with s3_errors(self._bucket, f"write {name}"):
            try:
                outcomes = [
                    self._create(name, b"probe", hashlib.sha256(b"probe").hexdigest(), "text/plain")
                    for _ in range(2)
                ]
            except ClientError as error:
                if error_code(error) in _UNKNOWN_HEADER or http_status(error) == 501:
                    return False
                raise
            self._client.delete_object(Bucket=self._bucket, Key=name)
        return outcomes != ["created", "created"]


def _md5(body: bytes) -> bytes:
    return hashlib.md5(body, usedforsecurity=False).digest()


def _back_off(attempt: int) -> None:
    """Sleep a random time up to 0.1 s x 2^attempt, at most 2 s.

    A random time keeps many clients from trying again at the same moment.
    """
    time.sleep(min(2.0, 0.1 * 2**attempt) * random.random())  # noqa: S311  # no secret
