"""Loads workflow files. Each module under WORKFLOW_DIR is an endpoint, and its path is the route."""

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, TypeAdapter

from handler.choices import CHECKPOINT, Ask
from handler.graphs.graph import Graph
from handler.validation import validate

_GRAPH = TypeAdapter(Graph)


class BadWorkflow(ValueError):
    """A workflow file is invalid. The message is one line that names it."""


@dataclass(frozen=True)
class Workflow:
    """A workflow file: its `RequestSchema`, its `generate_workflow`, and its texts for the documentation."""

    route: str
    schema: type[BaseModel]
    generate: Callable[[Any], Mapping[str, Any]]
    summary: str
    description: str


def load_workflows(folder: Path) -> dict[str, Workflow]:
    """Load all Python files in the folder, except those whose names begin with "_"; returns route to workflow.

    Raises BadWorkflow for a missing folder or an invalid file.
    """
    if not folder.is_dir():
        raise BadWorkflow(f"WORKFLOW_DIR={str(folder)!r}: the folder does not exist")
    files = sorted(file for file in folder.rglob("*.py") if not file.name.startswith("_"))
    found = [_load_workflow(file, file.relative_to(folder).with_suffix("").as_posix()) for file in files]
    return {workflow.route: workflow for workflow in found}


def expand_workflow(
    workflow: Workflow, given: Mapping[str, Any], ask: Ask, warmup_checkpoint: str | None
) -> tuple[dict[str, Any], Graph]:
    """The workflow's fields, with defaults, and its graph. Raises BadRequest."""
    filled = {**checkpoint_defaults(workflow, ask, warmup_checkpoint), **given}
    request = validate(workflow.schema, filled, at="input", context={"options": ask}, is_json=True)
    # A failure here is a bug in the workflow file, not in the request.
    return request.model_dump(mode="json"), _GRAPH.validate_python(workflow.generate(request))


def checkpoint_defaults(workflow: Workflow, ask: Ask, warmup_checkpoint: str | None) -> dict[str, str]:
    """Other defaults for checkpoint fields: the warm-up graph's checkpoint, if ComfyUI does not have the file's default."""
    defaults = {name: workflow.schema.model_fields[name].default for name in _checkpoint_fields(workflow.schema)}
    return {
        name: warmup_checkpoint
        for name, default in defaults.items()
        if warmup_checkpoint and not (isinstance(default, str) and CHECKPOINT.offers(default, ask))
    }


def _checkpoint_fields(schema: type[BaseModel]) -> list[str]:
    return [name for name, field in schema.model_fields.items() if CHECKPOINT in field.metadata]


def _load_workflow(file: Path, route: str) -> Workflow:
    module = _load_module(file, route)
    schema, generate = getattr(module, "RequestSchema", None), getattr(module, "generate_workflow", None)
    if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
        raise BadWorkflow(f"{file}: it needs a class RequestSchema, a pydantic model")
    if not callable(generate):
        raise BadWorkflow(f"{file}: it needs a function generate_workflow(input)")
    summary, description = getattr(module, "summary", ""), getattr(module, "description", "")
    return Workflow(route, schema, generate, str(summary or route), str(description))


def _load_module(file: Path, route: str) -> ModuleType:
    """Load a file as a module, by its path, because its folder may have any name, such as sd1.5."""
    name = f"workflow {route}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None  # both are None only for unknown file suffixes
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic resolves the names in annotations there
    try:
        spec.loader.exec_module(module)
    except Exception as exc:  # a user's file may raise anything
        raise BadWorkflow(f"{file}: {type(exc).__name__}: {exc}") from exc
    return module
