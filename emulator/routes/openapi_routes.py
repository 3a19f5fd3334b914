"""The fixed routes of the OpenAPI document: their texts, their requests and their answers."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from emulator.routes.deepinfra import Inference, InferenceRequest
from emulator.routes.downloads import DownloadRequest
from emulator.routes.prompts import InterruptRequest
from handler.schemas import PromptRequest, Result

Json = dict[str, Any]

REF = "#/components/schemas/{model}"
_NAME_LISTS: Json = {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}}


class Status(BaseModel):
    version: str = Field(description="Version of this server.")
    status: str


class Error(BaseModel):
    """The answer of every error."""

    statusCode: int  # noqa: N815 - the reference's name
    code: str = Field(description="Names the kind of failure.")
    error: str = Field(description="One sentence for the caller.")
    location: str | None = Field(None, description="The path of the invalid field in the request.")
    node_errors: dict[str, Any] | None = Field(None, description="ComfyUI's own table of errors, node id to errors.")


class Accepted(BaseModel):
    """The answer to a request with a webhook or an asynchronous upload: the request's own fields, and these."""

    model_config = ConfigDict(extra="allow")

    id: str
    prompt: dict[str, Any] = Field(description="The graph as it will run.")
    status: Literal["ok"]


class Downloaded(BaseModel):
    url: str = Field(description="Without its secret parts.")
    model_type: str
    filename: str
    status: Literal["started", "completed"]
    size: int | None = Field(None, description="In bytes, once it is downloaded.")
    duration: float | None = Field(None, description="In seconds.")


class Interrupted(BaseModel):
    id: str
    interrupted: Literal["success", "failed"]
    was: Literal["queued", "running"] | None = Field(None, description="Where the prompt was.")


def post(body: type[BaseModel] | str, doc: Json, answers: dict[str, tuple[str, str]]) -> Json:
    """The path item of a POST route. `answers` maps a status to its text and the name of its model."""
    name = body if isinstance(body, str) else body.__name__
    responses = {status: _answer(text, model) for status, (text, model) in answers.items()}
    return {"post": {**doc, "requestBody": {"required": True, "content": _content(name)}, "responses": responses}}


def _answer(text: str, model: str) -> Json:
    return {"description": text, "content": _content(model)}


def _content(model: str) -> Json:
    return {"application/json": {"schema": {"$ref": REF.format(model=model)}}}


def _probe(summary: str, description: str, answers: Iterable[tuple[str, str]]) -> Json:
    responses = {status: _answer(text, "Status") for status, text in answers}
    return {"get": {"summary": summary, "description": description, "tags": ["probes"], "responses": responses}}


_UNREAD = {
    "401": ("API_KEYS is set, and the request has none of them.", "Error"),
    "408": ("The body took longer than BODY_TIMEOUT_S.", "Error"),
    "413": ("The body or an input is too large.", "Error"),
    "415": ("The Content-Type is not supported.", "Error"),
}
_REFUSED = {
    **_UNREAD,
    "400": ("The request is invalid, or ComfyUI's validation refused it.", "Error"),
    "429": ("Too many requests are waiting; see Retry-After.", "Error"),
    "503": ("ComfyUI is not available.", "Error"),
    "507": ("The disk has no room for the request's files.", "Error"),
}
_FAILED = {
    **_REFUSED,
    "499": ("The prompt was interrupted.", "Error"),
    "500": ("A node failed.", "Error"),
    "502": ("ComfyUI crashed, or an upload failed.", "Error"),
    "504": ("The time limit was reached.", "Error"),
}
RUN_ANSWERS = {
    "200": ("The outputs.", "Result"),
    "202": ("Accepted; the webhooks get the result.", "Accepted"),
    **_FAILED,
}
_DOWNLOAD_ANSWERS = {
    "200": ("The model is downloaded.", "Downloaded"),
    "202": ("The download has started.", "Downloaded"),
    **_REFUSED,
}
_INTERRUPT_ANSWERS = {
    "200": ("The prompt is interrupted.", "Interrupted"),
    "404": ("There is no such prompt, or it has finished.", "Interrupted"),
    "400": ("The id is missing.", "Error"),
    **_UNREAD,
}
_INFERENCE_ANSWERS = {"200": ("The image, or with a webhook the request's id.", "Inference"), **_FAILED}

PATHS: Json = {
    "/health": _probe(
        "Health probe",
        "Healthy once the warm-up prompt has run, until the server ends.",
        [("200", "Healthy."), ("500", "Not warm yet.")],
    ),
    "/ready": _probe(
        "Readiness probe",
        "Ready for prompts: warm, ComfyUI answers, and the queue is below MAX_QUEUE_DEPTH.",
        [("200", "Ready."), ("503", "Not ready.")],
    ),
    "/metrics": {
        "get": {
            "summary": "Metrics",
            "description": "Queue depth, jobs by outcome and their durations, in Prometheus' text format.",
            "tags": ["probes"],
            "responses": {
                "200": {"description": "The metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}
            },
        }
    },
    "/models": {
        "get": {
            "summary": "List models",
            "description": "The file names in each model folder.",
            "tags": ["models"],
            "responses": {
                "200": {"description": "Folder to names.", "content": {"application/json": {"schema": _NAME_LISTS}}},
                "503": _answer("ComfyUI is not available.", "Error"),
            },
        }
    },
    "/prompt": post(
        PromptRequest,
        {
            "summary": "Run a graph",
            "description": "Runs a ComfyUI graph in API format. Inputs that take an uploaded image, video or audio file may "
            "be a URL, a data URI, base64, or the name of an existing file.",
            "tags": ["prompt"],
        },
        RUN_ANSWERS,
    ),
    "/download": post(
        DownloadRequest,
        {
            "summary": "Download a model",
            "description": "Downloads a model into its model folder: in the background, or before the answer with `wait`.",
            "tags": ["models"],
        },
        _DOWNLOAD_ANSWERS,
    ),
    "/interrupt": post(
        InterruptRequest,
        {
            "summary": "Interrupt a prompt",
            "description": "Ends the prompts of a request's id: a queued one never runs, a running one is interrupted.",
            "tags": ["prompt"],
        },
        _INTERRUPT_ANSWERS,
    ),
}
INFERENCE: Json = post(
    InferenceRequest,
    {
        "summary": "DeepInfra's FLUX-1-schnell",
        "description": "DeepInfra's request and answer on the flux workflows. Takes JSON or a multipart form.",
        "tags": ["workflows"],
    },
    _INFERENCE_ANSWERS,
)
REQUESTS: list[type[BaseModel]] = [PromptRequest, InterruptRequest, DownloadRequest, InferenceRequest]
ANSWERS: list[type[BaseModel]] = [Result, Accepted, Interrupted, Downloaded, Inference, Status, Error]
