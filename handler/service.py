"""What all jobs share: the settings, the ComfyUI client, the workflows, models and webhooks."""

import io
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter

from handler import json_codec, storage
from handler.comfyui import ComfyClient
from handler.errors import HandlerError
from handler.graphs import Graph, Workflow, load_workflows
from handler.models import ModelCache, ModelSearch
from handler.settings import BadSettings, Settings
from handler.storage import runpod_bucket
from handler.urls import redact_url
from handler.webhooks import SystemEvents, WebhookQueue

logger = logging.getLogger(__name__)

_GRAPH = TypeAdapter(Graph)
_MAX_GRAPH = 16 << 20


@dataclass(frozen=True)
class Service:
    """Everything that jobs share; none of it changes with a job."""

    settings: Settings
    comfy: ComfyClient
    workflows: Mapping[str, Workflow]
    warmup_graph: Graph | None
    webhooks: WebhookQueue
    system_events: SystemEvents
    models: ModelCache

    @classmethod
    def load(cls, settings: Settings) -> "Service":
        """Loads the workflow files and the warm-up graph, the latter over the network if WARMUP_PROMPT_URL is set.

        Raises BadSettings or BadWorkflow, each with one line that names what is wrong.
        """
        runpod_bucket.check_settings(settings)
        comfy = ComfyClient(
            settings.comfy_url,
            inflight=settings.comfyui_inflight,
            hang_timeout_s=settings.comfyui_hang_timeout_s or math.inf,
            model_search=ModelSearch(settings),
        )
        events = SystemEvents(settings)
        return cls(
            settings=settings,
            comfy=comfy,
            workflows=load_workflows(settings.workflow_dir),
            warmup_graph=_load_warmup_graph(settings),
            webhooks=WebhookQueue(settings),
            system_events=events,
            models=ModelCache(settings, comfy.model_folders, events.emit),
        )

    def start(self) -> None:
        """Send webhooks and system events, beginning with the webhooks that an earlier process has left on the disk."""
        self.webhooks.start()
        self.system_events.start()

    def stop(self) -> None:
        self.system_events.stop()
        self.webhooks.stop()

    @property
    def warmup_checkpoint(self) -> str | None:
        """The checkpoint of the warm-up graph: the default of workflows whose own is missing."""
        for node in (self.warmup_graph or {}).values():
            if node["class_type"] == "CheckpointLoaderSimple" and isinstance(node["inputs"].get("ckpt_name"), str):
                return str(node["inputs"]["ckpt_name"])
        return None


def _load_warmup_graph(settings: Settings) -> Graph | None:
    if settings.warmup_prompt_file:
        name = f"WARMUP_PROMPT_FILE={str(settings.warmup_prompt_file)!r}"
        try:
            return _parse_graph(settings.warmup_prompt_file.read_bytes(), name)
        except OSError as exc:
            raise BadSettings(f"{name}: {exc.strerror}") from exc
    if settings.warmup_prompt_url:
        name = f"WARMUP_PROMPT_URL={redact_url(settings.warmup_prompt_url)!r}"
        # The operator's own URL: it may be a private one.
        trusted = settings.model_copy(update={"allow_private_urls": True})
        file = io.BytesIO()
        try:
            store = storage.store_for_url(settings.warmup_prompt_url, trusted)
            with storage.time_limit(settings.warmup_prompt_url, settings.input_timeout_s):
                store.fetch(settings.warmup_prompt_url, file, auth=None, max_bytes=_MAX_GRAPH)
        except HandlerError as exc:
            raise BadSettings(f"{name}: {exc.message}") from exc
        return _parse_graph(file.getvalue(), name)
    return None


def _parse_graph(text: bytes, name: str) -> Graph:
    try:
        return _GRAPH.validate_python(json_codec.decode(text))
    except ValueError as exc:  # of JSON, or of pydantic
        raise BadSettings(f"{name}: it is not a graph in ComfyUI's API format") from exc
