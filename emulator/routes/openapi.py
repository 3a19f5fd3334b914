"""Builds the OpenAPI document from the pydantic models and the workflow files."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from copy import deepcopy

from pydantic import create_model
from pydantic.json_schema import models_json_schema

from emulator.routes.deepinfra import ROUTE, offered
from emulator.routes.openapi_routes import ANSWERS, INFERENCE, PATHS, REF, REQUESTS, RUN_ANSWERS, Json, post
from handler import HandlerError, Service, __version__
from handler.choices import CHOICE
from handler.graphs import Workflow, checkpoint_defaults

_CHOICE_SHOWN = 60


def openapi_document(service: Service) -> Json:
    """The OpenAPI 3.1 document of all routes. Fields with ComfyUI's lists accept any string while it does not answer."""
    _, requests = models_json_schema([(model, "validation") for model in REQUESTS], by_alias=True, ref_template=REF)
    _, results = models_json_schema([(model, "serialization") for model in ANSWERS], ref_template=REF)
    schemas: Json = {**results["$defs"], **requests["$defs"]}
    names, ask = _schema_names(service.workflows), _Lists(service)
    for route, workflow in service.workflows.items():
        name = names[route]
        schemas |= _input_schemas(workflow, name)
        schemas[f"{name}Request"] = _request_schema(schemas["PromptRequest"], name)
        _add_lists(schemas[f"{name}Input"], workflow, ask, service.warmup_checkpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ComfyUI API",
            "version": __version__,
            "description": "Runs ComfyUI workflows: any graph through /prompt, typed endpoints under /workflow.",
        },
        "servers": [{"url": "/", "description": "This server"}],
        "paths": {
            **PATHS,
            **_workflow_paths(service, names, schemas),
            **({ROUTE: INFERENCE} if offered(service) else {}),
        },
        "components": {"schemas": schemas},
    }


def _schema_names(routes: Iterable[str]) -> dict[str, str]:
    """Route to the prefix of its schemas' names: ASCII and unique."""
    seen: Counter[str] = Counter()
    names = {}
    for route in routes:
        name = "Workflow" + "".join(word.capitalize() for word in re.findall("[a-zA-Z0-9]+", route))
        seen[name] += 1
        names[route] = name if seen[name] == 1 else f"{name}_{seen[name]}"  # other names have no "_"
    return names


def _input_schemas(workflow: Workflow, name: str) -> Json:
    """The schema of a workflow's fields, and of the models in them, under the workflow's own names."""
    fields = create_model(f"{name}Input", __base__=workflow.schema)
    schema = fields.model_json_schema(ref_template=REF.format(model=f"{name}.{{model}}"))
    nested = schema.pop("$defs", {})
    return {f"{name}Input": schema, **{f"{name}.{model}": one for model, one in nested.items()}}


def _request_schema(prompt: Json, name: str) -> Json:
    """The request body of a workflow: that of POST /prompt with `input` in place of `prompt`."""
    # Copies, because YAML writes shared objects as anchors.
    options = {field: deepcopy(schema) for field, schema in prompt["properties"].items() if field != "prompt"}
    inputs = {"$ref": REF.format(model=f"{name}Input"), "description": "The fields of the workflow."}
    properties = {**options, "input": inputs}
    return {"properties": properties, "required": ["input"], "title": f"{name}Request", "type": "object"}


def _add_lists(schema: Json, workflow: Workflow, ask: "_Lists", warmup_checkpoint: str | None) -> None:
    """Add ComfyUI's lists to a workflow's schema, and the defaults that depend on them."""
    for field in schema.get("properties", {}).values():
        class_type, _, name = field.pop(CHOICE, "").partition(".")
        known = ask(class_type, name) if name else []
        if known:
            field["enum"] = list(known)
    for name, default in checkpoint_defaults(workflow, ask, warmup_checkpoint).items():
        schema["properties"][name]["default"] = default
        schema["required"] = [one for one in schema.get("required", []) if one != name]


class _Lists:
    """ComfyUI's current lists, each requested once; empty while it does not answer."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._known: dict[tuple[str, str], list[str]] = {}

    def __call__(self, class_type: str, name: str, *, fresh: bool = True) -> list[str]:
        key = (class_type, name)
        if key not in self._known:
            try:
                self._known[key] = self._service.comfy.options(class_type, name, fresh=fresh)
            except HandlerError:
                self._known[key] = []
        return self._known[key]


def _workflow_paths(service: Service, names: Mapping[str, str], schemas: Json) -> Json:
    paths: Json = {}
    for route, workflow in service.workflows.items():
        text = workflow.description
        if service.settings.markdown_schema_descriptions:
            text = f"{text}\n\n{_markdown_table(schemas[f'{names[route]}Input'])}".strip()
        doc = {"summary": workflow.summary, "description": text, "tags": ["workflows"]}
        paths[f"/workflow/{route}"] = post(f"{names[route]}Request", doc, RUN_ANSWERS)
    return paths


def _markdown_table(schema: Json) -> str:
    """The fields of a workflow as a Markdown table."""
    required = schema.get("required", [])
    rows = [
        f"| {name} | {_type(field)} | {field.get('description', '')} | {_default(field, name in required)} |"
        for name, field in schema.get("properties", {}).items()
    ]
    return "\n".join(["| Field | Type | Description | Default |", "|-|-|-|-|", *rows])


def _type(field: Json) -> str:
    values = [field["const"]] if "const" in field else field.get("enum", [])
    if values:
        more = ", ..." if len(values) > _CHOICE_SHOWN else ""
        return f"enum ({', '.join(f'`{value}`' for value in values[:_CHOICE_SHOWN])}{more})"
    low, high = field.get("minimum"), field.get("maximum")
    limits = f", {low} to {high}" if low is not None and high is not None else ""
    return f"{field.get('type', 'any')}{limits}"


def _default(field: Json, required: bool) -> str:
    if "default" in field:
        return f"`{json.dumps(field['default'], ensure_ascii=False)}`"
    return "required" if required else "-"
