"""The OpenAPI document, also of a server with workflow files of one's own, whatever they are called and hold."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
import yaml

from emulator.app import create_app
from emulator.routes import deepinfra
from handler import Settings
from tests.support.api import Api
from tests.support.live import served

PLAIN = """
from pydantic import BaseModel
class RequestSchema(BaseModel):
    {field}: int = 64
def generate_workflow(input):
    return {{}}
"""
NESTED = """
from pydantic import BaseModel
class {model}(BaseModel):
    {field}: int
class RequestSchema(BaseModel):
    one: {model}
    more: "list[RequestSchema]" = []
def generate_workflow(input):
    return {{}}
"""


@contextmanager
def documented(settings: Settings, folder: Path, files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The document of a server with these workflow files: valid, its references lead somewhere, JSON and YAML agree."""
    for name, source in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    with served(create_app(settings.model_copy(update={"workflow_dir": folder}))) as url:
        answer = requests.get(f"{url}/docs/json", timeout=30)
        assert answer.status_code == 200
        document = answer.json()
        text = requests.get(f"{url}/docs/yaml", timeout=30).text
    # PyYAML's parser in C takes a tenth of the time.
    assert yaml.load(text, yaml.CSafeLoader) == document
    assert not [token for token in yaml.scan(text, yaml.CSafeLoader) if isinstance(token, yaml.AliasToken)]
    schemathesis.openapi.from_dict(document).validate()
    names = document["components"]["schemas"].keys()
    assert all(re.fullmatch("[a-zA-Z0-9._-]+", name) for name in names)
    assert set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document))) <= names
    yield document


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """What a schema refers to."""
    found: dict[str, Any] = document["components"]["schemas"][schema["$ref"].removeprefix("#/components/schemas/")]
    return found


def fields(document: dict[str, Any], route: str) -> dict[str, Any]:
    """The fields of a workflow's input."""
    body = document["paths"][f"/workflow/{route}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    properties: dict[str, Any] = resolved(document, resolved(document, body)["properties"]["input"])["properties"]
    return properties


@pytest.mark.parametrize(
    "routes",
    [("a b", "a-b", "a.b", "a/b", "a", "a/2", "a_2", "a-2"), ("ü",), ("ü", "é", "a/ü", "a")],
    ids=" ".join,
)
def test_each_workflow_has_its_own_schema(settings: Settings, tmp_path: Path, routes: tuple[str, ...]) -> None:
    """Routes that differ only in what no name of a schema can hold: /docs was an internal error."""
    files = {f"{route}.py": PLAIN.format(field=f"field_{n}") for n, route in enumerate(routes)}
    with documented(settings, tmp_path, files) as document:
        shown = [list(fields(document, route)) for route in routes]
    assert shown == [[f"field_{n}"] for n, _ in enumerate(routes)]


def test_workflows_of_the_same_fields_are_documented_alike(settings: Settings, tmp_path: Path) -> None:
    files = {f"{route}.py": PLAIN.format(field="width") for route in ("a/b", "a_b")}
    with documented(settings, tmp_path, files) as document:
        assert fields(document, "a/b") == fields(document, "a_b") != {}


def test_a_workflow_s_own_models_replace_none_of_the_server_s(settings: Settings, tmp_path: Path) -> None:
    """One that was called Error became what every failure was said to answer."""
    models = ["Error", "Result", "PromptRequest", "ConvertPng", "WorkflowErrorInput", "Größe"]
    with documented(settings, tmp_path, {"other.py": PLAIN.format(field="width")}) as before:
        pass
    files = {f"{model}.py": NESTED.format(model=model, field="own") for model in models}
    with documented(settings, tmp_path, files) as document:
        for model in models:
            assert list(resolved(document, fields(document, model)["one"])["properties"]) == ["own"]
    known = document["components"]["schemas"]
    assert before["components"]["schemas"].items() <= known.items()


def test_two_workflows_models_of_one_name_stay_apart(settings: Settings, tmp_path: Path) -> None:
    files = {f"{route}.py": NESTED.format(model="Size", field=f"of_{route}") for route in ("x", "y")}
    with documented(settings, tmp_path, files) as document:
        for route in ("x", "y"):
            size = resolved(document, fields(document, route)["one"])
            again = resolved(document, fields(document, route)["more"]["items"])["properties"]
            assert list(size["properties"]) == [f"of_{route}"]
            assert resolved(document, again["one"]) == size


def test_a_workflow_without_fields_of_its_own_is_documented(settings: Settings, tmp_path: Path) -> None:
    source = (
        "from pydantic import BaseModel, RootModel\nclass RequestSchema({base}): ...\ndef generate_workflow(input): ..."
    )
    files = {"none.py": source.format(base="BaseModel"), "any.py": source.format(base="RootModel[dict[str, int]]")}
    with documented(settings, tmp_path, files) as document:
        assert fields(document, "none") == {}
        assert "/workflow/any" in document["paths"]


def test_the_openapi_document_knows_every_route(api: Api) -> None:
    document = api("GET", "/docs/json").json()
    assert document["openapi"].startswith("3.1")
    expected = {"/health", "/ready", "/models", "/metrics", "/prompt", "/interrupt", "/download", deepinfra.ROUTE} | {
        f"/workflow/{route}" for route in ("flux/txt2img", "flux/img2img", "text2img", "sd1.5/txt2img", "sd1.5/img2img")
    }
    assert set(document["paths"]) == expected
    assert all(next(iter(path.values()))["summary"] for path in document["paths"].values())


def test_the_openapi_document_has_limits_defaults_and_comfyui_s_lists(api: Api) -> None:
    schemas = api("GET", "/docs/json").json()["components"]["schemas"]
    fields = schemas["WorkflowFluxTxt2imgInput"]["properties"]
    assert (fields["width"]["minimum"], fields["width"]["maximum"], fields["width"]["default"]) == (256, 2048, 1024)
    assert {"euler", "dpmpp_2m"} <= set(fields["sampler_name"]["enum"])
    assert {"simple", "karras"} <= set(fields["scheduler"]["enum"])
    assert "flux1-schnell-fp8.safetensors" in fields["checkpoint"]["enum"]
    assert fields["checkpoint"]["default"] == "flux1-schnell-fp8.safetensors"
    assert schemas["WorkflowFluxTxt2imgInput"]["required"] == ["prompt"]
    assert all(field["description"] for field in fields.values())
    assert "chromaSubsampling" in schemas["JpegOptions"]["properties"]
    assert "x-comfyui" not in json.dumps(schemas)


def test_every_reference_in_the_document_leads_somewhere(api: Api) -> None:
    document = api("GET", "/docs/json").json()
    names = re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document))
    assert names
    assert set(names) <= set(document["components"]["schemas"])


def test_the_yaml_document_is_the_same(api: Api) -> None:
    assert yaml.safe_load(api("GET", "/docs/yaml").text) == api("GET", "/docs/json").json()


def test_the_table_of_inputs_can_be_left_out(api: Api, settings: Settings) -> None:
    path = "/workflow/sd1.5/img2img"
    shown = api("GET", "/docs/json").json()["paths"][path]["post"]["description"]
    assert '| negative_prompt | string | What the image must not show. | `"text, watermark"` |' in shown
    with served(create_app(settings.model_copy(update={"markdown_schema_descriptions": False}))) as url:
        bare = requests.get(f"{url}/docs/json", timeout=30).json()["paths"][path]["post"]["description"]
    assert "|" not in bare
