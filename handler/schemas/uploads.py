"""The uploads of a request: where its outputs go."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from handler.schemas.credentials import S3Auth
from handler.urls import MAX_URL_LENGTH

# The limit of S3 and Azure for a whole key.
_MAX_KEY = 1024


class _Upload(BaseModel):
    """The options of all uploads."""

    model_config = ConfigDict(strict=True, frozen=True, validate_by_name=True)

    async_: bool = Field(False, alias="async", description="Answer 202 at once, and upload in the background.")


class S3Upload(_Upload):
    bucket: str = Field(min_length=1, max_length=255)
    prefix: str = Field("", max_length=_MAX_KEY, description="Prefix of the keys; no slash is added.")


class BucketUpload(S3Upload):
    """RunPod's bucket, which has credentials of its own. The answer has URLs that anybody can read until they expire."""

    auth: S3Auth
    expiry_s: int


class AzureUpload(_Upload):
    container: str = Field(min_length=1, max_length=255)
    blob_prefix: str = Field("", max_length=_MAX_KEY, description="Prefix of the blob names; no slash is added.")


class HfUpload(_Upload):
    repo: str = Field(
        pattern=r"^[\w.-]+/[\w.-]+$", max_length=255, description="Name of the repository, such as user/repo."
    )
    repo_type: Literal["model", "dataset"] = "model"
    revision: str = Field("main", min_length=1, max_length=255, description="Branch of the repository.")
    directory: str = Field("/", max_length=_MAX_KEY, description="Directory in the repository.")


class HttpUpload(_Upload):
    url_prefix: str = Field(
        pattern=r"^[hH][tT][tT][pP][sS]?://[^/]",
        max_length=MAX_URL_LENGTH,
        description="The file name is appended after a slash.",
    )


Upload = S3Upload | AzureUpload | HfUpload | HttpUpload
