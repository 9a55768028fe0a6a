"""What an S3 service, or the network before it, says when something goes wrong, in a sentence of ours."""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass

import urllib3.exceptions as http
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from components.common.errors import InputError, RetryableError, RlhfError, UserError

# What a request can end with; anything else is a bug.
FAILURES = (MinioException, http.HTTPError, OSError)

# Codes that are about this request only: damaged on its way, or too many at once.
_PASSING = {
    "BadDigest",
    "ContentSHA256Mismatch",
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "XAmzContentSHA256Mismatch",
}
_FULL = {"XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException"}
# What is said of temporary keys whose time is over: some services forget them at once.
OVER = {*_EXPIRED, "InvalidAccessKeyId", "InvalidToken", "InvalidTokenId"}
# Code → what is wrong, and what to do about it.
_CAUSES = {
    "InvalidAccessKeyId": ("the store does not know the access key", "check AWS_ACCESS_KEY_ID"),
    "SignatureDoesNotMatch": (
        "the secret key does not belong to the access key",
        "check AWS_SECRET_ACCESS_KEY for a missing letter or a line end",
    ),
    "InvalidTokenId": ("the store does not know the session token", "check AWS_SESSION_TOKEN, or unset it"),
    "InvalidToken": ("the store does not know the session token", "check AWS_SESSION_TOKEN, or unset it"),
    "RequestTimeTooSkewed": ("the clocks of this machine and of the store differ too much", "set the clock (NTP)"),
    "NoSuchBucket": (
        "there is no such bucket",
        "check its name, or create it: rlhf put FILE --store s3://BUCKET --create-bucket",
    ),
    "InvalidBucketName": ("is no name for a bucket", "3 to 63 small letters, digits, dots and dashes"),
    "AccessDenied": ("access denied", "give AWS_ACCESS_KEY_ID a policy that allows it"),
    "AllAccessDisabled": ("access denied", "give AWS_ACCESS_KEY_ID a policy that allows it"),
    "AuthorizationHeaderMalformed": ("the store is in another region", "set AWS_REGION"),
    "PermanentRedirect": ("the bucket is in another region", "set AWS_REGION and AWS_ENDPOINT_URL"),
}


@dataclass(frozen=True)
class Fault:
    """A failure as we tell it, and whether the same request may succeed soon."""

    error: RlhfError
    passing: bool


def fault_of(error: BaseException, where: str, endpoint: str) -> Fault:
    """Reads a failure (one of `FAILURES`).

    Args:
        error: What the client raised.
        where: URI of what it is about.
        endpoint: Address of the store.
    """
    if isinstance(error, S3Error):
        return _service_fault(error, where)
    if isinstance(error, ServerError):
        return _unavailable(f"the store answers with HTTP status {error.status_code}", where)
    if isinstance(error, InvalidResponseError):
        return _no_s3(error, endpoint)
    return _network_fault(error, where, endpoint)


def code_of(error: BaseException) -> str:
    """The S3 code of a failure; empty if it has none."""
    return str(error.code) if isinstance(error, S3Error) else ""


def _service_fault(error: S3Error, where: str) -> Fault:
    code, status = str(error.code), error.response.status
    if code in _FULL or status == 507:
        return Fault(UserError("the store is full", where=where, hint="free space in it or enlarge its disk"), False)
    if code in _EXPIRED:
        return Fault(RetryableError("the session token has expired", where=where, hint="get new credentials"), False)
    if code in ("NoSuchKey", "ResourceNotFound"):
        return Fault(InputError("no such file", where=where), False)
    if code in _CAUSES:
        what, hint = _CAUSES[code]
        return Fault(UserError(what, where=where, hint=hint), False)
    if code in _PASSING or status >= 500 or status == 429:
        return _unavailable(f"the store answers {code}: {error.message}", where)
    return Fault(UserError(f"the store refused: {code}: {error.message}", where=where), False)


def _no_s3(error: InvalidResponseError, endpoint: str) -> Fault:
    code = int(re.search(r"code: (\d+)", str(error))[1])  # type: ignore[index]
    if code >= 500:
        return _unavailable(f"HTTP status {code} from something before the store", endpoint)
    if "HTTP request to an HTTPS server" in str(error):
        return _wrong_address("the store speaks TLS", endpoint, "write https:// in AWS_ENDPOINT_URL")
    return _wrong_address(f"answers with HTTP status {code} and is no S3 service", endpoint, "check AWS_ENDPOINT_URL")


def _network_fault(error: BaseException, where: str, endpoint: str) -> Fault:
    reasons = [error, *error.args, error.__cause__, error.__context__]
    tls = next((reason for reason in reasons if isinstance(reason, ssl.SSLError)), None)
    if isinstance(tls, ssl.SSLCertVerificationError):
        hint = "give its CA's certificate in AWS_CA_BUNDLE, and its name as the certificate has it"
        return _wrong_address(f"its certificate is not trusted: {tls.verify_message}", endpoint, hint)
    if tls is not None and "WRONG_VERSION_NUMBER" in str(tls):
        return _wrong_address("the store speaks no TLS", endpoint, "write http:// in AWS_ENDPOINT_URL")
    if isinstance(error, OSError) and not isinstance(error, (ConnectionError, TimeoutError, socket.gaierror)):
        raise error  # of a local file
    return _unavailable(f"the store at {endpoint} {_unreachable(error)}", where)


def _unreachable(error: BaseException) -> str:
    if isinstance(error, http.NameResolutionError):
        return "cannot be found: its name has no address"
    if isinstance(error, http.NewConnectionError):
        return "refuses the connection" if "refused" in str(error) else f"cannot be reached: {error.args[-1]}"
    if isinstance(error, http.ConnectTimeoutError):
        return "does not answer"
    if isinstance(error, (http.TimeoutError, TimeoutError)):
        return "stopped answering"
    return f"broke the connection ({type(error).__name__})"


def _wrong_address(what: str, endpoint: str, hint: str) -> Fault:
    return Fault(UserError(what, where=endpoint, hint=hint), False)


def _unavailable(what: str, where: str) -> Fault:
    hint = "see that it is up and AWS_ENDPOINT_URL is right, and run the same command again"
    return Fault(RetryableError(what, where=where, hint=hint), True)
