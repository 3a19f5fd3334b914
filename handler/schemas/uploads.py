"""Where outputs are uploaded to."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from handler.schemas.credentials import S3Auth
from handler.urls import MAX_URL_LENGTH

# S3's limit for a whole key, and Azure's.
_LONGEST_KEY = 1024


class _Upload(BaseModel):
    """Where outputs are uploaded to. With `async` the caller is answered at once."""

    model_config = ConfigDict(strict=True, frozen=True, validate_by_name=True)

    async_: bool = Field(False, alias="async", description="Answer 202 at once, and upload in the background.")


class S3Upload(_Upload):
    bucket: str = Field(min_length=1, max_length=255)
    prefix: str = Field("", max_length=_LONGEST_KEY, description="What the keys begin with, as it is.")


class BucketUpload(S3Upload):
    """RunPod's way, with keys of its own: the caller gets URLs that anybody can read for a while."""

    auth: S3Auth
    expiry_s: int


class AzureUpload(_Upload):
    container: str = Field(min_length=1, max_length=255)
    blob_prefix: str = Field("", max_length=_LONGEST_KEY, description="What the blob names begin with, as it is.")


class HfUpload(_Upload):
    repo: str = Field(
        pattern=r"^[\w.-]+/[\w.-]+$", max_length=255, description="Name of the repository, such as user/repo."
    )
    repo_type: Literal["model", "dataset"] = "model"
    revision: str = Field("main", min_length=1, max_length=255, description="Branch of the repository.")
    directory: str = Field("/", max_length=_LONGEST_KEY, description="Directory in the repository.")


class HttpUpload(_Upload):
    url_prefix: str = Field(
        pattern=r"^[hH][tT][tT][pP][sS]?://[^/]",
        max_length=MAX_URL_LENGTH,
        description="The file name is put behind it, after a slash.",
    )


Upload = S3Upload | AzureUpload | HfUpload | HttpUpload
