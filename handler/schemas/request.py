"""The requests of our own dialects, as pydantic models."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Self
from uuid import uuid4

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from handler.graphs import Graph, file_stem
from handler.schemas.conversion import ConvertOutput, ConvertPng
from handler.schemas.credentials import Auth, Credential, find_auth
from handler.schemas.result import Result
from handler.schemas.uploads import AzureUpload, HfUpload, HttpUpload, S3Upload, Upload
from handler.urls import MAX_URL_LENGTH, origin, redact_urls

# Secret fields, and fields that the answer has in another place.
_NOT_ECHOED = {"credentials", "comfy_org_api_key", "prompt", "input", "workflow", "images"}


class Options(BaseModel):
    """The options of all dialects. Unknown fields are ignored, as in comfyui-api."""

    model_config = ConfigDict(strict=True, frozen=True)

    needs_output: ClassVar[bool] = True
    """Whether the graph must have an output node that saves something."""
    uses_bucket: ClassVar[bool] = False
    """Whether the outputs are uploaded to the bucket of the settings, if there is one."""
    result_type: ClassVar[type[Result]] = Result
    """The model of the answer."""

    id: str = Field(
        default_factory=lambda: str(uuid4()),
        min_length=1,
        max_length=255,
        description="The caller's id of the request. The answer repeats it. Default: a UUID.",
    )
    convert_output: Annotated[ConvertOutput, Discriminator("format")] = Field(
        ConvertPng(format="png"), description="The format of still and animated images. Default: as ComfyUI wrote them."
    )
    timeout_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Time limit of the whole job, in seconds."
    )

    webhook: str | None = Field(
        None, description="URL that gets one output.complete per output, or one prompt.failed. Empty: no webhook."
    )
    webhook_v2: str | None = Field(
        None,
        description="URL that gets one prompt.complete or prompt.failed as a Standard Webhook. Empty: no webhook.",
    )
    s3: S3Upload | None = Field(None, description="Upload the outputs to an S3 bucket.")
    azure_blob_upload: AzureUpload | None = Field(None, description="Upload the outputs to Azure Blob Storage.")
    hf_upload: HfUpload | None = Field(None, description="Upload the outputs to the Hugging Face hub.")
    http_upload: HttpUpload | None = Field(None, description="PUT the outputs to a web server.")
    credentials: list[Credential] = Field(
        [], max_length=100, description="Credentials of protected URLs; the first match wins."
    )
    comfy_org_api_key: SecretStr | None = Field(
        None,
        strict=False,
        description="Comfy.org's key for API nodes. Default: COMFY_ORG_API_KEY. The answer never repeats it.",
    )

    @field_validator("webhook", "webhook_v2")
    @classmethod
    def _webhook(cls, value: str | None) -> str | None:
        return webhook_url(value)

    @field_validator("webhook", "webhook_v2", "s3", "azure_blob_upload", "hf_upload", "http_upload", mode="before")
    @classmethod
    def _not_null(cls, value: Any) -> Any:
        # As in comfyui-api, null is not the same as a missing field.
        if value is None:
            raise ValueError("null is invalid; leave it out")
        return value

    @model_validator(mode="after")
    def _one_upload(self) -> Self:
        given = [name for name in ("s3", "azure_blob_upload", "hf_upload", "http_upload") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"only one upload is allowed, not {' and '.join(f'`{name}`' for name in given)}")
        return self

    @property
    def upload(self) -> Upload | None:
        """Where the outputs are uploaded; None to put them into the answer."""
        return self.s3 or self.azure_blob_upload or self.hf_upload or self.http_upload

    @property
    def graph(self) -> Graph | None:
        """The graph of the request; None if a workflow file makes it."""
        return None

    @property
    def named_images(self) -> dict[str, str]:
        """Images that the graph's inputs refer to by name: name to base64, data URI or URL."""
        return {}

    @property
    def file_stem(self) -> str | None:
        """What output file names begin with; None to name them as the graph says."""
        return file_stem(self.id)

    @property
    def deferred(self) -> bool:
        """Whether the caller gets a 202 before the job runs."""
        return bool(self.webhook or self.webhook_v2 or (self.upload and self.upload.async_))

    @property
    def target(self) -> ConvertOutput | None:
        """The format of the outputs; None to leave them as they are."""
        return self.convert_output if "convert_output" in self.model_fields_set else None

    def auth_for(self, url: str) -> Auth | None:
        """The caller's credentials for a URL."""
        return find_auth(self.credentials, url)

    def echo(self) -> dict[str, Any]:
        """The caller's options as the answer repeats them: without secret fields and secret parts of URLs."""
        return {
            name: redact_urls(
                value.model_dump(by_alias=True, exclude_unset=name == "convert_output")
                if isinstance(value, BaseModel)
                else value
            )
            for name, value in self
            if name in self.model_fields_set and name not in _NOT_ECHOED
        }


def webhook_url(value: str | None) -> str | None:
    """The value, which must be empty or an http or https URL. Raises ValueError."""
    if value and len(value) > MAX_URL_LENGTH:
        raise ValueError(f"the URL of a webhook may have at most {MAX_URL_LENGTH} characters")
    if value and not _is_http_url(value):
        raise ValueError("a webhook must be an http or https URL")
    return value


def _is_http_url(url: str) -> bool:
    try:
        return origin(url)[0] in ("http", "https")
    except ValueError:
        return False


# Far more than any graph has. Larger graphs make error messages slow, and exceed ComfyUI's recursion limit.
_MAX_NODES = 20_000
_MAX_DEPTH = 100
_MAX_NAME = 1000


def _is_deeper_than(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        inner = [one.values() if isinstance(one, dict) else one for one in layer if isinstance(one, (dict, list))]
        if not inner:
            return False
        layer = [one for group in inner for one in group]
    return any(isinstance(one, (dict, list)) for one in layer)


def check_api_format(graph: Any) -> Any:
    """The graph, if it is within the limits. Raises ValueError with a clearer text than pydantic's."""
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        raise ValueError(
            "this is a workflow saved by the ComfyUI editor; export it with 'Workflow > Export (API)' instead"
        )
    if isinstance(graph, dict) and len(graph) > _MAX_NODES:
        raise ValueError(f"more than {_MAX_NODES} nodes")
    if _is_deeper_than(graph, _MAX_DEPTH):
        raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")
    if any(isinstance(name, str) and len(name) > _MAX_NAME for name in _names(graph)):
        raise ValueError(f"the name of a node, a class or an input has more than {_MAX_NAME} characters")
    return graph


def _names(graph: Any) -> Iterator[Any]:
    """All node ids, class names and input names."""
    for node_id, node in graph.items() if isinstance(graph, dict) else ():
        yield node_id
        if isinstance(node, dict):
            yield node.get("class_type")
            yield from node["inputs"] if isinstance(node.get("inputs"), dict) else ()


class PromptRequest(Options):
    """A graph. Also the body of POST /prompt."""

    prompt: Graph = Field(description="A graph in ComfyUI's API format: node id to node.")

    @field_validator("prompt", mode="before")
    @classmethod
    def _api_format(cls, prompt: Any) -> Any:
        return check_api_format(prompt)

    @property
    def graph(self) -> Graph:
        return self.prompt


class WorkflowRequest(Options):
    """The route of a workflow file and its fields. POST /workflow/<route> takes the same without `workflow`."""

    workflow: str = Field(min_length=1, description="The route of the workflow, such as flux/txt2img.")
    input: dict[str, Any] = Field(description="The fields of the workflow.")
