"""What may come in: the event's input, validated."""

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

from handler.graphs.graph import Graph, file_stem
from handler.schemas.conversion import ConvertOutput, ConvertPng
from handler.schemas.credentials import Auth, Credential, find_auth
from handler.schemas.result import Result
from handler.schemas.uploads import AzureUpload, HfUpload, HttpUpload, S3Upload, Upload
from handler.urls import MAX_URL_LENGTH, origin, redact_urls

# What is secret, and what the answer has in a place of its own.
_NOT_ECHOED = {"credentials", "comfy_org_api_key", "prompt", "input", "workflow", "images"}


class Options(BaseModel):
    """What every dialect takes beside the graph. Unknown fields are ignored, as the reference does."""

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
        description="The caller's id of the request, echoed as given. Default: a UUID.",
    )
    convert_output: Annotated[ConvertOutput, Discriminator("format")] = Field(
        ConvertPng(format="png"), description="The format of still and animated images. Default: as ComfyUI wrote them."
    )
    timeout_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="A deadline for the whole job, in seconds."
    )

    webhook: str | None = Field(
        None, description="URL that gets one output.complete per output, or one prompt.failed. Empty: none."
    )
    webhook_v2: str | None = Field(
        None,
        description="URL that gets one prompt.complete or prompt.failed, by the Standard Webhooks rules. Empty: none.",
    )
    s3: S3Upload | None = Field(None, description="Upload the outputs to an S3 bucket.")
    azure_blob_upload: AzureUpload | None = Field(None, description="Upload the outputs to Azure Blob Storage.")
    hf_upload: HfUpload | None = Field(None, description="Upload the outputs to the Hugging Face hub.")
    http_upload: HttpUpload | None = Field(None, description="PUT the outputs to a web server.")
    credentials: list[Credential] = Field(
        [], max_length=100, description="What to show at protected URLs; the first match wins."
    )
    comfy_org_api_key: SecretStr | None = Field(
        None, strict=False, description="Comfy.org's key for API nodes. Default: COMFY_ORG_API_KEY. It is never echoed."
    )

    @field_validator("webhook", "webhook_v2")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        return webhook_url(value)

    @field_validator("webhook", "webhook_v2", "s3", "azure_blob_upload", "hf_upload", "http_upload", mode="before")
    @classmethod
    def _not_null(cls, value: Any) -> Any:
        # As the reference: a field that is not wanted is left out.
        if value is None:
            raise ValueError("null is no value for it; leave it out")
        return value

    @model_validator(mode="after")
    def _one_upload(self) -> Self:
        given = [name for name in ("s3", "azure_blob_upload", "hf_upload", "http_upload") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"one upload at most; given are {' and '.join(f'`{name}`' for name in given)}")
        return self

    @property
    def upload(self) -> Upload | None:
        """Where the outputs go; None for the answer itself."""
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
        """Whether the caller is answered before the job has run."""
        return bool(self.webhook or self.webhook_v2 or (self.upload and self.upload.async_))

    @property
    def target(self) -> ConvertOutput | None:
        """What outputs are converted to; None to leave them as they are."""
        return self.convert_output if "convert_output" in self.model_fields_set else None

    def auth_for(self, url: str) -> Auth | None:
        """The caller's credentials for a URL."""
        return find_auth(self.credentials, url)

    def echo(self) -> dict[str, Any]:
        """The caller's options, as the answer repeats them: without the secret ones, and without what is secret in URLs."""
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
    """The value, when it is empty or an http or https URL. Raises ValueError."""
    if value and len(value) > MAX_URL_LENGTH:
        raise ValueError(f"a webhook's URL has at most {MAX_URL_LENGTH} characters")
    if value and not _is_server(value):
        raise ValueError("a webhook is an http or https URL")
    return value


def _is_server(url: str) -> bool:
    try:
        return origin(url)[0] in ("http", "https")
    except ValueError:
        return False


# Far more than any graph has. Beyond them it costs much to say what is wrong, and ComfyUI's own recursion ends.
_MOST_NODES = 20_000
_DEEPEST = 100
_LONGEST_NAME = 1000


def _is_deeper(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        inner = [one.values() if isinstance(one, dict) else one for one in layer if isinstance(one, (dict, list))]
        if not inner:
            return False
        layer = [one for group in inner for one in group]
    return any(isinstance(one, (dict, list)) for one in layer)


def api_format(graph: Any) -> Any:
    """The graph, unless it is of a kind that pydantic would say little of."""
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        raise ValueError(
            "this is a workflow saved by the ComfyUI editor; export it with 'Workflow > Export (API)' instead"
        )
    if isinstance(graph, dict) and len(graph) > _MOST_NODES:
        raise ValueError(f"more than {_MOST_NODES} nodes")
    if _is_deeper(graph, _DEEPEST):
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
    if any(isinstance(name, str) and len(name) > _LONGEST_NAME for name in _names(graph)):
        raise ValueError(f"the name of a node, a class or an input has more than {_LONGEST_NAME} characters")
    return graph


def _names(graph: Any) -> Iterator[Any]:
    """The ids of nodes, their classes, and their inputs' names."""
    for node_id, node in graph.items() if isinstance(graph, dict) else ():
        yield node_id
        if isinstance(node, dict):
            yield node.get("class_type")
            yield from node["inputs"] if isinstance(node.get("inputs"), dict) else ()


class PromptRequest(Options):
    """The prompt dialect, and the body of POST /prompt."""

    prompt: Graph = Field(description="A graph in ComfyUI's API format: node id to node.")

    @field_validator("prompt", mode="before")
    @classmethod
    def _api_format(cls, prompt: Any) -> Any:
        return api_format(prompt)

    @property
    def graph(self) -> Graph:
        return self.prompt


class WorkflowRequest(Options):
    """The workflow dialect: a route under WORKFLOW_DIR and its fields. POST /workflow/<route> is it without the route."""

    workflow: str = Field(min_length=1, description="The route of the workflow, such as flux/txt2img.")
    input: dict[str, Any] = Field(description="The fields of the workflow.")
