"""What a host sets up once: the settings, one Comfy, the workflows."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from handler import workflows
from handler.comfy import Comfy
from handler.event import Graph
from handler.settings import BadSettings, Settings
from handler.workflows import Workflow

logger = logging.getLogger(__name__)

_GRAPH = TypeAdapter(Graph)


@dataclass(frozen=True)
class Service:
    """Everything that jobs share, and none of it changes with a job. Making one connects to nothing."""

    settings: Settings
    comfy: Comfy
    workflows: Mapping[str, Workflow]
    warmup_prompt: Graph | None

    @classmethod
    def of(cls, settings: Settings) -> "Service":
        """Raises BadSettings or BadWorkflow, each with one line that names what is wrong."""
        return cls(
            settings=settings,
            comfy=Comfy(settings.comfy_url, inflight=settings.comfyui_inflight),
            workflows=workflows.loaded(settings.workflow_dir),
            warmup_prompt=_graph(settings.warmup_prompt_file) if settings.warmup_prompt_file else None,
        )

    @property
    def warmup_checkpoint(self) -> str | None:
        """The checkpoint of the warm-up graph: the default of workflows whose own is missing."""
        for node in (self.warmup_prompt or {}).values():
            if node["class_type"] == "CheckpointLoaderSimple" and isinstance(node["inputs"].get("ckpt_name"), str):
                return str(node["inputs"]["ckpt_name"])
        return None


def _graph(file: Path) -> Graph:
    try:
        return _GRAPH.validate_python(orjson.loads(file.read_bytes()))
    except (OSError, orjson.JSONDecodeError, ValidationError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not a graph in ComfyUI's API format"
        raise BadSettings(f"WARMUP_PROMPT_FILE={str(file)!r}: {reason}") from exc
