"""What a failed request to S3 means: the error to raise, which says what to do."""

import os

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from vitseg.errors import AccessError, NotFoundError, StorageError, StoreFullError, UsageError, VitsegError
from vitseg.storage.base import reason, without_secrets
from vitseg.storage.s3_client import endpoint

S3_ERRORS = (ClientError, BotoCoreError, ResponseParserError)
"""What botocore raises when a request fails."""

_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "InvalidToken"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_NOT_RENEWED = (CredentialRetrievalError, SSOError, TokenRetrievalError)
_MISSING = {"NoSuchKey", "404", "NotFound", "NoSuchBucket"}
_ELSEWHERE = {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
# MinIO's full disk and quota, Ceph's quota; others send the status 507, and SeaweedFS InternalError, as for all else.
_FULL = {"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "InsufficientStorage"}
_CHECKSUMS = ("checksum", "content-md5", "aws-chunked", "x-amz-trailer")


def code_of(error: Exception) -> str:
    """Return the code that the server sent; empty where it sent none."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def is_error(error: Exception, status: int, code: str) -> bool:
    """Return whether an error is the one with this status and code: servers differ in which of the two they send."""
    sent = error.response.get("ResponseMetadata", {}) if isinstance(error, ClientError) else {}
    return code_of(error) in (code, str(status)) or sent.get("HTTPStatusCode") == status


def may_be_expired(error: ClientError) -> bool:
    """Return whether credentials have ended; the answer to HEAD has no body, and its status is all there is."""
    return code_of(error) in _EXPIRED or (error.operation_name == "HeadObject" and code_of(error) == "400")


def s3_error(error: Exception, where: str, bucket: str) -> VitsegError:
    """Return the error for what failed at an address."""
    server = without_secrets(endpoint()) or "AWS"
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return AccessError(
            f"no S3 credentials for {where}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (for a public bucket "
            "AWS_NO_SIGN_REQUEST=yes), or start the embedded store with `vitseg stack up`"
        )
    if isinstance(error, _NOT_RENEWED):
        return AccessError(f"no S3 credentials for {where}: {reason(error)}: sign in again, then repeat the command")
    if isinstance(error, EndpointConnectionError):
        return StorageError(
            f"no S3 server answers at {server}: start it (`vitseg stack up`), or check AWS_ENDPOINT_URL_S3"
        )
    if isinstance(error, ParamValidationError):
        return UsageError(f"{where}: S3 allows no such name of a bucket or object")
    if not isinstance(error, ClientError):
        return StorageError(f"{where}: {reason(error)}")
    code, message = code_of(error), str(error.response.get("Error", {}).get("Message", ""))
    if code == "NoSuchBucket":
        return NotFoundError(f"bucket {bucket!r} does not exist at {server}: create it, or check its name")
    if code in _MISSING:
        return NotFoundError(f"{where} does not exist")
    if code in _EXPIRED:
        return AccessError(
            f"{server} refuses access to {where} ({code}): the session has ended: renew AWS_SESSION_TOKEN with its two "
            "keys, or sign in again, then repeat the command: what is done stays done"
        )
    if code in _DENIED:
        payer = (
            "" if os.environ.get("AWS_REQUEST_PAYER") else "; if its requesters pay, set AWS_REQUEST_PAYER=requester"
        )
        return AccessError(
            f"{server} refuses access to {where} ({code}): check AWS_ACCESS_KEY_ID, "
            f"AWS_SECRET_ACCESS_KEY and the bucket's permissions{payer}"
        )
    if code in _ELSEWHERE:
        return UsageError(f"{where}: the bucket lies in another region ({code} {message}): set AWS_REGION".strip())
    if code in _FULL or is_error(error, 507, "507"):
        return StoreFullError(
            f"{server} has no room left for {where} ({code}): make room there or raise the quota, then start again"
        )
    text = f"{where}: {code} {' '.join(message.split())}".strip()
    if code == "InternalError" and error.operation_name == "PutObject":
        text += " (SeaweedFS says this when its disk is full, too)"
    if any(word in message.lower() for word in _CHECKSUMS):
        text += " (AWS_REQUEST_CHECKSUM_CALCULATION=when_required leaves such headers out, when_supported sends them)"
    if code == "400" and error.operation_name == "HeadObject":
        text += " (a session that has ended, another region, or an object under a customer's key)"
    return StorageError(text)
