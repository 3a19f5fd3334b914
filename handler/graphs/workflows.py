"""Workflow files: every module under WORKFLOW_DIR is an endpoint, its path is the route."""

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
    """A workflow file that cannot be used. The message is one line that names it."""


@dataclass(frozen=True)
class Workflow:
    """One workflow file: its `RequestSchema`, its `generate_workflow`, and its words for the documentation."""

    route: str
    schema: type[BaseModel]
    generate: Callable[[Any], Mapping[str, Any]]
    summary: str
    description: str


def load_workflows(folder: Path) -> dict[str, Workflow]:
    """Route to workflow, for every Python file under the folder whose name does not begin with "_".

    Raises BadWorkflow for a folder that does not exist and for a file that cannot be used.
    """
    if not folder.is_dir():
        raise BadWorkflow(f"WORKFLOW_DIR={str(folder)!r}: there is no such folder")
    files = sorted(file for file in folder.rglob("*.py") if not file.name.startswith("_"))
    found = [_workflow(file, file.relative_to(folder).with_suffix("").as_posix()) for file in files]
    return {workflow.route: workflow for workflow in found}


def expand_workflow(
    workflow: Workflow, given: Mapping[str, Any], ask: Ask, warmup_checkpoint: str | None
) -> tuple[dict[str, Any], Graph]:
    """The workflow's fields, defaults filled in, and the graph made of them. Raises BadRequest."""
    filled = {**checkpoint_defaults(workflow, ask, warmup_checkpoint), **given}
    request = validate(workflow.schema, filled, at="input", context={"options": ask}, is_json=True)
    # Not the caller's fault when this fails: what the file makes of a valid request must be a graph.
    return request.model_dump(mode="json"), _GRAPH.validate_python(workflow.generate(request))


def checkpoint_defaults(workflow: Workflow, ask: Ask, warmup_checkpoint: str | None) -> dict[str, str]:
    """The defaults of checkpoint fields that differ from the file's: that of the warm-up graph where ComfyUI lacks the own."""
    defaults = {name: workflow.schema.model_fields[name].default for name in _checkpoint_fields(workflow.schema)}
    return {
        name: warmup_checkpoint
        for name, default in defaults.items()
        if warmup_checkpoint and not (isinstance(default, str) and CHECKPOINT.offers(default, ask))
    }


def _checkpoint_fields(schema: type[BaseModel]) -> list[str]:
    return [name for name, field in schema.model_fields.items() if CHECKPOINT in field.metadata]


def _workflow(file: Path, route: str) -> Workflow:
    module = _module(file, route)
    schema, generate = getattr(module, "RequestSchema", None), getattr(module, "generate_workflow", None)
    if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
        raise BadWorkflow(f"{file}: it needs a class RequestSchema, a pydantic model")
    if not callable(generate):
        raise BadWorkflow(f"{file}: it needs a function generate_workflow(input)")
    summary, description = getattr(module, "summary", ""), getattr(module, "description", "")
    return Workflow(route, schema, generate, str(summary or route), str(description))


def _module(file: Path, route: str) -> ModuleType:
    """The file as a module. Its folder may have any name, such as sd1.5, so it is loaded by path."""
    name = f"workflow {route}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None  # both are None for unknown file endings only
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where pydantic looks for the names in a model's annotations
    try:
        spec.loader.exec_module(module)
    except Exception as exc:  # a user's file may raise anything; the start stops with its name
        raise BadWorkflow(f"{file}: {type(exc).__name__}: {exc}") from exc
    return module
