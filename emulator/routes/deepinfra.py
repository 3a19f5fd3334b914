"""POST /v1/inference/black-forest-labs/FLUX-1-schnell: DeepInfra's request and answer on the flux workflows."""

import base64
import random
import time
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator
from starlette.requests import Request
from starlette.responses import Response

from emulator.adapter import Adapter
from emulator.http import JsonResponse, media_type, parse_json, read_form, read_json_body
from emulator.routes.prompts import cancelled_on_disconnect
from handler import HandlerError, Job, Result, Service, Settings, json_codec
from handler.errors import ServerStopped
from handler.graphs import checkpoint_defaults
from handler.net import check_url
from handler.schemas import webhook_url
from handler.validation import validate
from handler.webhooks import Delivery

ROUTE = "/v1/inference/black-forest-labs/FLUX-1-schnell"
Side = Literal[128, 256, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960, 1024]


class InferenceRequest(BaseModel):
    """DeepInfra's fields. "512" is accepted for 512, because the fields of a form are texts."""

    prompt: str = Field(min_length=1, description="What the image shows.")
    image: str | None = Field(None, description="Input image for image to image: a URL, a data URI or base64.")
    num_inference_steps: int = Field(25, ge=1, le=512, description="Number of denoising steps.")
    guidance_scale: float | None = Field(
        None,
        ge=1,
        le=20,
        description="Classifier-free guidance. Default: the workflow's own, which FLUX.1-schnell needs.",
    )
    strength: float = Field(0.8, ge=0, le=1, description="How much of the input image is replaced: 1 ignores it.")
    width: Side = Field(512, description="Width of the image in pixels.")
    height: Side = Field(512, description="Height of the image in pixels.")
    seed: int | None = Field(None, ge=0, lt=1 << 63, description="Seed. Default: a random one.")
    webhook: str | None = Field(None, description="URL that gets the answer; the response is sent at once.")

    @field_validator("width", "height", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("webhook")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        return webhook_url(value)


class InferenceStatus(BaseModel):
    status: Literal["queued", "succeeded", "failed"]
    runtime_ms: int
    cost: float = 0.0
    tokens_generated: int = 0
    tokens_input: int = 0


class Inference(BaseModel):
    """DeepInfra's answer. With a webhook the response has only `request_id` and the status."""

    images: list[str] | None = Field(None, description="The images as data URLs.")
    nsfw_content_detected: list[bool] | None = Field(None, description="Always false, as there is no filter.")
    seed: int | None = None
    request_id: str
    inference_status: InferenceStatus


def offered(service: Service) -> bool:
    """Whether the workflow files that the endpoint uses exist."""
    return {"flux/txt2img", "flux/img2img"} <= service.workflows.keys()


async def infer(request: Request) -> Response:
    """Generate an image."""
    adapter: Adapter = request.app.state.adapter
    started = time.monotonic()
    inference = await adapter.while_open(_parse(request, adapter.service.settings))
    seed = random.randrange(1 << 32) if inference.seed is None else inference.seed
    job = await adapter.admit(lambda: _event(inference, seed, adapter.service))

    def shape(result: Result) -> dict[str, Any]:
        answer = Inference(
            images=[f"data:{file.mime_type};base64,{image}" for file, image in result.files],
            nsfw_content_detected=[False] * len(result.images),
            seed=seed,
            request_id=job.request.id,
            inference_status=_status("succeeded", started),
        )
        return answer.model_dump()

    if not inference.webhook:
        async with cancelled_on_disconnect(request, job):
            return JsonResponse(await adapter.finish(job, shape))
    promise = adapter.service.webhooks.promise(
        [_webhook(inference.webhook, job, _failure(job, started, ServerStopped()))]
    )

    def notify(outcome: HandlerError | Result) -> None:
        body = shape(outcome) if isinstance(outcome, Result) else _failure(job, started, outcome)
        promise.keep([_webhook(str(inference.webhook), job, body)])

    adapter.finish_later(job, notify)
    queued = Inference(request_id=job.request.id, inference_status=_status("queued", started))
    return JsonResponse(queued.model_dump(exclude_none=True))


async def _parse(request: Request, settings: Settings) -> InferenceRequest:
    if media_type(request) not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        return validate(InferenceRequest, parse_json(await read_json_body(request, settings)))
    fields = await read_form(request, settings)
    texts = {
        name: value if isinstance(value, str) else _field_text(name, value)
        for name, value in fields.items()
        if value != ""
    }
    return validate(InferenceRequest, texts, strict=False)


def _field_text(name: str, content: bytes) -> str:
    """The content of a file as the value of a field: the image in base64, other fields as text."""
    return base64.b64encode(content).decode() if name == "image" else content.decode(errors="replace").strip()


def _event(inference: InferenceRequest, seed: int, service: Service) -> dict[str, Any]:
    if inference.webhook:
        check_url(inference.webhook, allow_private=service.settings.allow_private_urls)
    return {"input": {"prompt": _graph(inference, seed, service)}}


def _graph(inference: InferenceRequest, seed: int, service: Service) -> Mapping[str, Any]:
    """The graph of the flux workflow. Its fields are not validated again, because DeepInfra's limits are other ones."""
    workflow = service.workflows["flux/img2img" if inference.image else "flux/txt2img"]
    fields: dict[str, Any] = {
        "prompt": inference.prompt,
        "width": inference.width,
        "height": inference.height,
        "steps": inference.num_inference_steps,
        "seed": seed,
        **checkpoint_defaults(workflow, service.comfy.options, service.warmup_checkpoint),
    }
    if inference.guidance_scale is not None:
        fields["cfg_scale"] = inference.guidance_scale
    if inference.image:
        fields |= {"image": inference.image, "denoise": inference.strength}
    return workflow.generate(workflow.schema.model_construct(**fields))


def _webhook(url: str, job: Job, body: Mapping[str, Any]) -> Delivery:
    return Delivery(url, job.request.id, json_codec.encode(body), standard=False)


def _status(status: Literal["queued", "succeeded", "failed"], started: float) -> InferenceStatus:
    return InferenceStatus(status=status, runtime_ms=round((time.monotonic() - started) * 1000))


def _failure(job: Job, started: float, error: HandlerError) -> dict[str, Any]:
    answer = Inference(request_id=job.request.id, inference_status=_status("failed", started))
    return {**answer.model_dump(exclude_none=True), **error.answer()}
