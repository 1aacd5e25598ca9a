"""The one boto3 client: how every part of imagemill talks to S3, and to servers like it."""

from typing import TYPE_CHECKING, Literal

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_SECONDS = 5
READ_SECONDS = 30
ATTEMPTS = 5
CONNECTIONS = 32
"""Connections that one client keeps open: at least the threads that upload."""


def s3_client(
    *,
    endpoint_url: str | None,
    checksums: Literal["when_supported", "when_required"],
    attempts: int = ATTEMPTS,
    read_seconds: float = READ_SECONDS,
    keys: tuple[str, str] | None = None,
) -> "S3Client":
    """A client with credentials and region from the usual AWS environment. No I/O.

    `keys` are an access key and its secret in the place of the environment's credentials.
    `checksums` says when boto3 adds checksums of its own; some stores refuse them. A client may
    serve any number of threads.
    """
    # A session of its own: boto3's default one is shared, keeps the first credentials that it
    # met, and is not safe to use from several threads.
    access_key, secret = keys or (None, None)
    session = boto3.Session(aws_access_key_id=access_key, aws_secret_access_key=secret)
    return session.client(
        "s3",
        endpoint_url=endpoint_url,
        # A store with its own endpoint takes any region, but a signature needs one.
        region_name=session.region_name or ("us-east-1" if endpoint_url else None),
        config=Config(
            signature_version="s3v4",
            # Stores that are not AWS rarely have a DNS name for each bucket.
            s3={"addressing_style": "path" if endpoint_url else "auto"},
            request_checksum_calculation=checksums,
            response_checksum_validation=checksums,
            connect_timeout=CONNECT_SECONDS,
            read_timeout=read_seconds,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
        ),
    )
