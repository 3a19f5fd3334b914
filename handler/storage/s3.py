"""Objects behind s3:// URLs, and uploads to a bucket."""

import threading
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, BinaryIO

from handler.errors import BadRequest, DeliveryError, ForbiddenUrl, HandlerError, InputUnavailable
from handler.net import check_url, deadline, guard_pools
from handler.schemas import Auth, BucketUpload, S3Auth, S3Upload, Upload
from handler.settings import Settings
from handler.storage.auth import AuthFor
from handler.storage.s3_object import S3Object
from handler.storage.transfer import (
    CONNECT_TIMEOUT_S,
    IDLE_TIMEOUT_S,
    TRANSFER_ERRORS,
    Limits,
    Version,
    failure_reason,
)
from handler.threads import ThreadPool
from handler.urls import shorten

_SCHEME = "s3://"
_ATTEMPTS = 3
_PART = 8 << 20
# Parts in memory at once: s3transfer reads a file object ahead, by ten parts unless told otherwise.
_PARTS = 3

_building = threading.Lock()


class S3Storage:
    """Objects of S3 and of stores that speak its protocol. Keys are taken literally: nothing is quoted or unquoted."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def matches(self, url: str) -> bool:
        return url[: len(_SCHEME)].lower() == _SCHEME

    def check_url(self, url: str, auth: Auth | None) -> None:
        _parse_url(url)
        self._account(auth)

    def fetch(
        self,
        url: str,
        file: BinaryIO,
        *,
        version: Version | None = None,
        auth: Auth | None = None,
        max_bytes: int | None,
    ) -> None:
        bucket, key = _parse_url(url)
        limits = Limits(shorten(_url(bucket, key)), max_bytes)
        # The attempts to connect share the time that is left; what remains is for the body.
        wait_s = max(1, round(min(IDLE_TIMEOUT_S, deadline.left_s() / _ATTEMPTS)))
        client = _client(replace(self._account(auth), wait_s=wait_s))
        try:
            S3Object(client, bucket, key).download_to(file, version, limits)
        except _failures() as exc:
            raise _translate(exc, InputUnavailable, f"{limits.name} cannot be fetched") from exc

    def takes(self, upload: Upload) -> bool:
        return isinstance(upload, S3Upload)

    def check(self, upload: Upload, auth_for: AuthFor) -> None:
        assert isinstance(upload, S3Upload)
        _client(self._account_for(upload, _url(upload.bucket, upload.prefix), auth_for))
        _check_name(upload.bucket)

    def store(
        self, upload: Upload, filename: str, content: BinaryIO, *, size: int, mime_type: str, auth_for: AuthFor
    ) -> str:
        assert isinstance(upload, S3Upload)
        key = upload.prefix + filename
        url = _url(upload.bucket, key)
        client = _client(self._account_for(upload, url, auth_for))
        content.seek(0)
        try:
            if size <= _PART:
                client.put_object(
                    Bucket=upload.bucket, Key=key, Body=content, ContentLength=size, ContentType=mime_type
                )
            else:
                _put_in_parts(client, content, upload.bucket, key, mime_type)
        except _failures() as exc:
            raise _translate(exc, DeliveryError, f"The upload to {shorten(url)} failed") from exc
        if isinstance(upload, BucketUpload):
            where = {"Bucket": upload.bucket, "Key": key}
            return str(client.generate_presigned_url("get_object", Params=where, ExpiresIn=upload.expiry_s))
        return url

    def _account_for(self, upload: S3Upload, url: str, auth_for: AuthFor) -> "_Account":
        if not isinstance(upload, BucketUpload):
            return self._account(auth_for(url))
        # The endpoint may contain the bucket's name already, as in RunPod's documentation.
        return replace(self._account(upload.auth), style="path")

    def _account(self, auth: Auth | None) -> "_Account":
        """The keys that sign a request: the caller's or else the operator's. Raises ForbiddenUrl for the caller's endpoint."""
        settings = self._settings
        common = _Account(
            endpoint=settings.aws_endpoint_url, region=settings.aws_region, style=settings.s3_addressing_style
        )
        if isinstance(auth, S3Auth):
            token = auth.session_token
            common = replace(
                common,
                key=auth.access_key_id,
                secret=auth.secret_access_key.get_secret_value(),
                token=token.get_secret_value() if token else None,
                region=auth.region or common.region,
            )
            if not auth.endpoint:
                return common
            allowed = settings.allow_private_urls or auth.endpoint == settings.bucket_endpoint_url
            check_url(auth.endpoint, allow_private=allowed)
            return replace(common, endpoint=auth.endpoint, guarded=not allowed)
        secret, token = settings.aws_secret_access_key, settings.aws_session_token
        return replace(
            common,
            key=settings.aws_access_key_id,
            secret=secret.get_secret_value() if secret else None,
            token=token.get_secret_value() if token else None,
        )


@dataclass(frozen=True)
class _Account:
    """The settings of a client; there is one client for each set of them."""

    endpoint: str | None
    region: str | None
    style: str
    key: str | None = None
    secret: str | None = None
    token: str | None = None
    guarded: bool = False
    wait_s: int = IDLE_TIMEOUT_S


def _parse_url(url: str) -> tuple[str, str]:
    """Bucket and key. Raises InputUnavailable."""
    bucket, _, key = url[len(_SCHEME) :].partition("/")
    if not bucket or not key:
        raise InputUnavailable(f"{shorten(_url(bucket, key))} is not a valid S3 URL; it has to be s3://bucket/key.")
    return bucket, key


def _url(bucket: str, key: str) -> str:
    return f"{_SCHEME}{bucket}/{key}"


def _check_name(bucket: str) -> None:
    from botocore.exceptions import ParamValidationError
    from botocore.handlers import validate_bucket_name

    try:
        validate_bucket_name({"Bucket": bucket})
    except ParamValidationError as exc:
        raise BadRequest(f"{bucket!r} is not a valid bucket name.", location="s3.bucket") from exc


def _client(account: _Account) -> Any:
    """A client, which is safe to use from many threads. Raises BadRequest when there are no credentials for it."""
    with _building:  # so that a burst of requests makes one client
        return _build_client(account)


@lru_cache(maxsize=32)
def _build_client(account: _Account) -> Any:
    import boto3
    import botocore.session

    chain = botocore.session.Session()
    # Amazon's metadata service exists on its own machines only; elsewhere every search for it takes seconds.
    chain.get_component("credential_provider").remove("iam-role")
    try:
        session = boto3.session.Session(
            aws_access_key_id=account.key,
            aws_secret_access_key=account.secret,
            aws_session_token=account.token,
            region_name=account.region,
            botocore_session=chain,
        )
        if bool(account.key) != bool(account.secret) or session.get_credentials() is None:
            raise BadRequest(
                "There are no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or send `credentials` of type s3."
            )
        region = session.region_name or ("us-east-1" if account.endpoint else None)
        client = session.client("s3", region_name=region, endpoint_url=account.endpoint, config=_config(account))
    except _failures() as exc:
        raise BadRequest(
            "The settings for S3 cannot be used: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL "
            f"or the `credentials` of type s3 ({type(exc).__name__})."
        ) from exc
    # botocore has no public hook for its connections.
    pools = client._endpoint.http_session._pool_classes_by_scheme
    pools.update(guard_pools(pools, public=account.guarded))
    return client


def _config(account: _Account) -> Any:
    from botocore.config import Config

    # Since 1.36 botocore sends checksums that many S3-compatible stores do not know.
    checksums = "when_required" if account.endpoint else "when_supported"
    return Config(
        connect_timeout=min(CONNECT_TIMEOUT_S, account.wait_s),
        read_timeout=account.wait_s,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        signature_version="s3v4",
        s3={"addressing_style": account.style},
        request_checksum_calculation=checksums,
        response_checksum_validation="when_required",
        # A proxy would connect in our place, without our check of addresses.
        proxies={} if account.guarded else None,
    )


def _put_in_parts(client: Any, content: BinaryIO, bucket: str, key: str, mime_type: str) -> None:
    # As `client.upload_fileobj` does it, but on threads that end at the deadline of the upload.
    from boto3.s3.transfer import TransferConfig, TransferManager

    config = TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART, max_concurrency=_PARTS)
    config.max_in_memory_upload_chunks = _PARTS
    with TransferManager(client, config, executor_cls=partial(ThreadPool, name="upload-part")) as manager:
        manager.upload(content, bucket, key, {"ContentType": mime_type}).result()


def _failures() -> tuple[type[Exception], ...]:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return (*TRANSFER_ERRORS, Boto3Error, BotoCoreError, ClientError)


def _translate(exc: Exception, kind: type[HandlerError], failed: str) -> HandlerError:
    """One sentence for the caller; the texts of botocore's exceptions can hold addresses and keys."""
    from botocore import exceptions as known

    inner = getattr(exc, "kwargs", {}).get("error")
    if isinstance(inner, ForbiddenUrl):  # from the guarded connection
        return inner
    if isinstance(exc, known.ClientError):
        return kind(f"{failed}: {_describe_response(exc.response)}.")
    kinds: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
        ((known.ParamValidationError,), "the bucket or the key is not a valid one"),
        ((known.NoCredentialsError, known.PartialCredentialsError), "there are no credentials"),
        ((known.CredentialRetrievalError, known.TokenRetrievalError), "the credentials cannot be had"),
        ((known.ConnectTimeoutError, known.ReadTimeoutError), "it took too long"),
        ((known.SSLError,), "the certificate is not valid"),
        ((known.ConnectionError, known.HTTPClientError), "no connection"),
    )
    return kind(f"{failed}: {next((text for types, text in kinds if isinstance(exc, types)), failure_reason(exc))}.")


def _describe_response(response: dict[str, Any]) -> str:
    code = response.get("Error", {}).get("Code", "")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    # A HEAD has no body, so that its code is the status.
    known = {
        "NoSuchBucket": "the bucket does not exist",
        "NoSuchKey": "it does not exist",
        "404": "it does not exist",
        "AccessDenied": "access denied",
        "403": "access denied",
        "401": "access denied",
    }
    return known.get(code) or (
        f"S3 answered {status}" if code == str(status) else f"S3 answered {status} {code}".rstrip()
    )
