"""Turns failures of an S3 store into our errors, with advice for the operator.

A request that will be refused again is a `StorageDenied`; one that may succeed later is a
`StorageError`. Messages name the bucket, the action and the store's own code. They contain no
credentials: botocore keeps these out of its messages, and we add none.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)

from imagemill.db.errors import StorageDenied, StorageError

_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_DENIALS = {
    "NoSuchBucket": "the bucket does not exist: create it, or mend IMAGEMILL_STORAGE_URL",
    "InvalidAccessKeyId": f"the store does not know the access key: {_KEYS}",
    "SignatureDoesNotMatch": f"the secret key is wrong: {_KEYS}",
    "ExpiredToken": "the credentials are over: renew AWS_SESSION_TOKEN and its keys",
    "InvalidToken": "the session token is not valid: renew AWS_SESSION_TOKEN and its keys",
    "RequestTimeTooSkewed": "this machine's clock is off: set it",
    "PermanentRedirect": "the bucket is in another region: set AWS_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set AWS_REGION",
    "InvalidBucketName": "that is no bucket name: mend IMAGEMILL_STORAGE_URL",
}
_FORBIDDEN = f"access denied: {_KEYS}, and allow what deploy/s3-policy.json lists"


def error_code(error: ClientError) -> str:
    """The store's code for a failure, `NoSuchKey` for example; `404` where HEAD has no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def http_status(error: ClientError) -> int:
    """The HTTP status of a failed request, 0 if there was none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def s3_errors(bucket: str, action: str) -> Iterator[None]:
    """Raise every botocore error of the block as a `StorageError` with one readable line."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise storage_error(error, bucket, action) from error


def storage_error(error: ClientError | BotoCoreError, bucket: str, action: str) -> StorageError:
    """The error to raise instead of `error`, which occurred at `action` ("write ab/c.png")."""
    kind, said = _refusal(error) if isinstance(error, ClientError) else _silence(error)
    return kind(f"can't {action} in bucket {bucket}: {said}")


def _refusal(error: ClientError) -> tuple[type[StorageError], str]:
    """The error for a store that has answered and refused."""
    code, status = error_code(error), http_status(error)
    if status == 301:
        code = "PermanentRedirect"
    if code in _DENIALS:
        return StorageDenied, _DENIALS[code]
    if status in (401, 403):
        return StorageDenied, f"{_FORBIDDEN} (the store said {code or status})"
    return StorageError, f"the store answered {status} {code}".rstrip()


def _silence(error: BotoCoreError) -> tuple[type[StorageError], str]:
    """The error for a store that gave no usable answer, or a request that was never sent."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StorageDenied, f"no credentials: {_KEYS}"
    if isinstance(error, ProfileNotFound | NoRegionError | ParamValidationError):
        return StorageDenied, str(error)
    if isinstance(error, CredentialRetrievalError):
        return StorageError, f"the credentials could not be fetched: {error}"
    name = type(error).__name__
    return StorageError, (
        f"the store did not answer ({name}): is it up, and is IMAGEMILL_S3_ENDPOINT_URL right?"
    )
