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
from emulator.http.bodies import media_type, parse_json, read_form, read_json_body
from emulator.http.responses import JsonResponse
from emulator.routes.prompts import cancelled_on_disconnect
from handler import HandlerError, Job, Result, Service, Settings, json_codec
from handler.errors import ServerStopped
from handler.graphs import workflows
from handler.net import guard
from handler.schemas.request import webhook_url
from handler.validation import validate
from handler.webhooks.message import Delivery

ROUTE = "/v1/inference/black-forest-labs/FLUX-1-schnell"
Side = Literal[128, 256, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960, 1024]


class InferenceRequest(BaseModel):
    """DeepInfra's fields. A form has texts only, so "512" is as good as 512."""

    prompt: str = Field(min_length=1, description="What the picture shows.")
    image: str | None = Field(None, description="Input image: a URL, a data URI or base64; makes it image to image.")
    num_inference_steps: int = Field(25, ge=1, le=512, description="Number of denoising steps.")
    guidance_scale: float | None = Field(
        None,
        ge=1,
        le=20,
        description="Classifier-free guidance. Default: the workflow's own, which FLUX.1-schnell needs.",
    )
    strength: float = Field(0.8, ge=0, le=1, description="How much of the input image is redrawn: 1 ignores it.")
    width: Side = Field(512, description="Width of the picture in pixels.")
    height: Side = Field(512, description="Height of the picture in pixels.")
    seed: int | None = Field(None, ge=0, lt=1 << 63, description="Seed. Default: drawn per request.")
    webhook: str | None = Field(None, description="URL that gets the answer; the request is answered at once then.")

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
    """DeepInfra's answer. `request_id` and the status alone when there is a webhook."""

    images: list[str] | None = Field(None, description="The pictures as data URLs.")
    nsfw_content_detected: list[bool] | None = Field(None, description="Always false: no filter is run.")
    seed: int | None = None
    request_id: str
    inference_status: InferenceStatus


def offered(service: Service) -> bool:
    """Whether the workflows are there that the endpoint stands on."""
    return {"flux/txt2img", "flux/img2img"} <= service.workflows.keys()


async def infer(request: Request) -> Response:
    """Draw a picture."""
    adapter: Adapter = request.app.state.adapter
    began = time.monotonic()
    wish = await adapter.while_open(_wish(request, adapter.service.settings))
    seed = random.randrange(1 << 32) if wish.seed is None else wish.seed
    job = await adapter.admit(lambda: _event(wish, seed, adapter.service))

    def shape(result: Result) -> dict[str, Any]:
        answer = Inference(
            images=[f"data:{file.mime_type};base64,{image}" for file, image in result.files],
            nsfw_content_detected=[False] * len(result.images),
            seed=seed,
            request_id=job.request.id,
            inference_status=_status("succeeded", began),
        )
        return answer.model_dump()

    if not wish.webhook:
        async with cancelled_on_disconnect(request, job):
            return JsonResponse(await adapter.finish(job, shape))
    promise = adapter.service.webhooks.promise([_webhook(wish.webhook, job, _failed(job, began, ServerStopped()))])

    def told(outcome: HandlerError | Result) -> None:
        body = shape(outcome) if isinstance(outcome, Result) else _failed(job, began, outcome)
        promise.keep([_webhook(str(wish.webhook), job, body)])

    adapter.finish_later(job, told)
    queued = Inference(request_id=job.request.id, inference_status=_status("queued", began))
    return JsonResponse(queued.model_dump(exclude_none=True))


async def _wish(request: Request, settings: Settings) -> InferenceRequest:
    if media_type(request) not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        return validate(InferenceRequest, parse_json(await read_json_body(request, settings)))
    fields = await read_form(request, settings)
    texts = {
        name: value if isinstance(value, str) else _text(name, value) for name, value in fields.items() if value != ""
    }
    return validate(InferenceRequest, texts, strict=False)


def _text(name: str, content: bytes) -> str:
    """A file's content as a field: pictures in base64, anything else is text."""
    return base64.b64encode(content).decode() if name == "image" else content.decode(errors="replace").strip()


def _event(wish: InferenceRequest, seed: int, service: Service) -> dict[str, Any]:
    if wish.webhook:
        guard.check_url(wish.webhook, allow_private=service.settings.allow_private_urls)
    return {"input": {"prompt": _graph(wish, seed, service)}}


def _graph(wish: InferenceRequest, seed: int, service: Service) -> Mapping[str, Any]:
    """The flux workflow's graph. Its own limits are not DeepInfra's, so its fields are set without being checked anew."""
    workflow = service.workflows["flux/img2img" if wish.image else "flux/txt2img"]
    fields: dict[str, Any] = {
        "prompt": wish.prompt,
        "width": wish.width,
        "height": wish.height,
        "steps": wish.num_inference_steps,
        "seed": seed,
        **workflows.checkpoint_defaults(workflow, service.comfy.options, service.warmup_checkpoint),
    }
    if wish.guidance_scale is not None:
        fields["cfg_scale"] = wish.guidance_scale
    if wish.image:
        fields |= {"image": wish.image, "denoise": wish.strength}
    return workflow.generate(workflow.schema.model_construct(**fields))


def _webhook(url: str, job: Job, body: Mapping[str, Any]) -> Delivery:
    return Delivery(url, job.request.id, json_codec.encode(body), standard=False)


def _status(status: Literal["queued", "succeeded", "failed"], began: float) -> InferenceStatus:
    return InferenceStatus(status=status, runtime_ms=round((time.monotonic() - began) * 1000))


def _failed(job: Job, began: float, error: HandlerError) -> dict[str, Any]:
    answer = Inference(request_id=job.request.id, inference_status=_status("failed", began))
    return {**answer.model_dump(exclude_none=True), **error.answer()}
