"""What a host sets up once: the settings, one Comfy, the workflows."""

import io
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from pydantic import TypeAdapter, ValidationError

from handler import storage
from handler.comfyui.client import ComfyClient
from handler.errors import HandlerError
from handler.graphs import workflows
from handler.graphs.graph import Graph
from handler.graphs.workflows import Workflow
from handler.models.cache import ModelCache
from handler.models.search import ModelSearch
from handler.settings import BadSettings, Settings
from handler.storage import runpod_bucket
from handler.urls import redact_url
from handler.webhooks.queue import WebhookQueue
from handler.webhooks.system_events import SystemEvents

logger = logging.getLogger(__name__)

_GRAPH = TypeAdapter(Graph)
_MAX_GRAPH = 16 << 20


@dataclass(frozen=True)
class Service:
    """Everything that jobs share, and none of it changes with a job.

    Making one connects to nothing but WARMUP_PROMPT_URL; `start` sends what the outbox still holds.
    """

    settings: Settings
    comfy: ComfyClient
    workflows: Mapping[str, Workflow]
    warmup_prompt: Graph | None
    outbox: WebhookQueue
    events: SystemEvents
    models: ModelCache

    @classmethod
    def of(cls, settings: Settings) -> "Service":
        """Raises BadSettings or BadWorkflow, each with one line that names what is wrong."""
        runpod_bucket.check_settings(settings)
        comfy = ComfyClient(
            settings.comfy_url,
            inflight=settings.comfyui_inflight,
            patience_s=settings.comfyui_hang_timeout_s or math.inf,
            whereabouts=ModelSearch(settings),
        )
        events = SystemEvents(settings)
        return cls(
            settings=settings,
            comfy=comfy,
            workflows=workflows.load_workflows(settings.workflow_dir),
            warmup_prompt=_warmup_prompt(settings),
            outbox=WebhookQueue(settings),
            events=events,
            models=ModelCache(settings, comfy.model_folders, events.emit),
        )

    def start(self) -> None:
        self.outbox.start()
        self.events.start()

    def stop(self) -> None:
        self.events.stop()
        self.outbox.stop()

    @property
    def warmup_checkpoint(self) -> str | None:
        """The checkpoint of the warm-up graph: the default of workflows whose own is missing."""
        for node in (self.warmup_prompt or {}).values():
            if node["class_type"] == "CheckpointLoaderSimple" and isinstance(node["inputs"].get("ckpt_name"), str):
                return str(node["inputs"]["ckpt_name"])
        return None


def _warmup_prompt(settings: Settings) -> Graph | None:
    if settings.warmup_prompt_file:
        name = f"WARMUP_PROMPT_FILE={str(settings.warmup_prompt_file)!r}"
        try:
            return _graph(settings.warmup_prompt_file.read_bytes(), name)
        except OSError as exc:
            raise BadSettings(f"{name}: {exc.strerror}") from exc
    if settings.warmup_prompt_url:
        name = f"WARMUP_PROMPT_URL={redact_url(settings.warmup_prompt_url)!r}"
        # The operator's own URL: it may be a private one.
        trusted = settings.model_copy(update={"allow_private_urls": True})
        file = io.BytesIO()
        try:
            storage.store_for_url(settings.warmup_prompt_url, trusted).fetch(
                settings.warmup_prompt_url, file, auth=None, max_bytes=_MAX_GRAPH, timeout_s=settings.input_timeout_s
            )
        except HandlerError as exc:
            raise BadSettings(f"{name}: {exc.message}") from exc
        return _graph(file.getvalue(), name)
    return None


def _graph(text: bytes, name: str) -> Graph:
    try:
        return _GRAPH.validate_python(orjson.loads(text))
    except (orjson.JSONDecodeError, ValidationError) as exc:
        raise BadSettings(f"{name}: it is not a graph in ComfyUI's API format") from exc
