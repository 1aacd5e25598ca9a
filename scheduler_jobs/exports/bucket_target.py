"""An export's target in a bucket; see `target`."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from botocore.exceptions import ClientError

from imagemill.db.settings import Settings
from imagemill.db.storage.s3_client import s3_client
from imagemill.db.storage.s3_errors import error_code, s3_errors

_CHUNK_BYTES = 1 << 20


class BucketTarget:
    """Objects below a prefix of a bucket. An object appears whole, once its upload ends."""

    def __init__(self, bucket: str, prefix: str, settings: Settings) -> None:
        self._client = s3_client(
            endpoint_url=settings.s3_endpoint_url, checksums=settings.s3_checksums
        )
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    @property
    def uri(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def names(self) -> frozenset[str]:
        """See `Target.names`."""
        with s3_errors(self._bucket, f"list {self._prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            return frozenset(
                item["Key"].removeprefix(self._prefix)
                for page in pages
                for item in page.get("Contents", ())
            )

    def read(self, name: str) -> bytes | None:
        """See `Target.read`."""
        with s3_errors(self._bucket, f"read {name}"):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
                return answer["Body"].read()
            except ClientError as error:
                if error_code(error) in ("NoSuchKey", "404"):
                    return None
                raise

    def chunks(self, name: str) -> Iterator[bytes]:
        """See `Target.chunks`."""
        with s3_errors(self._bucket, f"read {name}"):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            yield from answer["Body"].iter_chunks(_CHUNK_BYTES)

    def write(self, name: str, body: bytes) -> None:
        """See `Target.write`."""
        with s3_errors(self._bucket, f"write {name}"):
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=body)

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """See `Target.create`. The file is made locally and then uploaded, in parts if large."""
        with tempfile.TemporaryFile(prefix="imagemill-export-") as file:
            yield cast(BinaryIO, file)
            file.seek(0)
            with s3_errors(self._bucket, f"write {name}"):
                self._client.upload_fileobj(file, self._bucket, self._prefix + name)

    def clear(self) -> None:
        """See `Target.clear`."""
        for name in sorted(self.names()):
            with s3_errors(self._bucket, f"remove {name}"):
                self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)
