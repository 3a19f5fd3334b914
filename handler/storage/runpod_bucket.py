"""The bucket that a RunPod worker puts outputs into: the endpoint's own (BUCKET_*), or the one that a job brings."""

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic.alias_generators import to_camel

from handler.errors import locate
from handler.net import check_url
from handler.schemas import BucketUpload, S3Auth
from handler.settings import BadSettings, Settings
from handler.validation import validate


class S3Config(BaseModel):
    """The `s3Config` that a caller of RunPod's API sends beside `input`."""

    model_config = ConfigDict(alias_generator=to_camel)

    access_id: str = Field(min_length=1)
    access_secret: SecretStr = Field(min_length=1)
    bucket_name: str = Field(min_length=1)
    endpoint_url: str = Field(pattern=r"^https?://[^/]")


def choose_bucket(event: Mapping[str, Any], request_id: str, settings: Settings) -> BucketUpload | None:
    """Where the outputs of an event may go; None without a bucket.

    Raises BadRequest for an invalid `s3Config`, and ForbiddenUrl for its endpoint.
    """
    if event.get("s3Config") is not None:
        config = validate(S3Config, event["s3Config"], at="s3Config", strict=False)
        _check_endpoint(config.endpoint_url, settings)
        auth = _auth(config.endpoint_url, config.access_id, config.access_secret)
        return _upload(config.bucket_name, request_id, auth, settings)
    key, secret = settings.bucket_access_key_id, settings.bucket_secret_access_key
    if not (settings.bucket_endpoint_url and key and secret):
        return None
    # The name that RunPod's rp_upload takes: with an endpoint that names the bucket itself it becomes a folder there.
    name = settings.bucket_name or time.strftime("%m-%y")
    return _upload(name, request_id, _auth(settings.bucket_endpoint_url, key, secret), settings)


def check_settings(settings: Settings) -> None:
    """Raise BadSettings for a bucket without its keys."""
    if settings.bucket_endpoint_url and not (settings.bucket_access_key_id and settings.bucket_secret_access_key):
        raise BadSettings("BUCKET_ENDPOINT_URL needs BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY")


def _check_endpoint(url: str, settings: Settings) -> None:
    with locate("s3Config.endpointUrl"):
        check_url(url, allow_private=settings.allow_private_urls or url == settings.bucket_endpoint_url)


def _upload(name: str, request_id: str, auth: S3Auth, settings: Settings) -> BucketUpload:
    return BucketUpload(bucket=name, prefix=f"{request_id}/", auth=auth, expiry_s=settings.s3_presign_expiry_s)


def _auth(endpoint: str, key: str, secret: SecretStr) -> S3Auth:
    return S3Auth(type="s3", access_key_id=key, secret_access_key=secret, endpoint=endpoint, region=_region(endpoint))


def _region(endpoint: str) -> str | None:
    """The region that an endpoint's host names: bucket.s3.eu-west-1.amazonaws.com, bucket.nyc3.digitaloceanspaces.com.

    As RunPod's rp_upload finds it, except that s3.amazonaws.com and s3.wasabisys.com name none, and "dualstack" is not one.
    """
    host = urlsplit(endpoint).hostname or ""
    if ".s3." in f".{host}":
        region, _, domain = f".{host}".partition(".s3.")[2].removeprefix("dualstack.").partition(".")
        return region if "." in domain else None
    if host.endswith(".digitaloceanspaces.com"):
        return host.removesuffix(".digitaloceanspaces.com").rpartition(".")[2]
    return None
