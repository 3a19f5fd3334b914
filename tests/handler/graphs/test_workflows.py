"""Workflow files: found by their path, checked against ComfyUI, expanded into graphs."""

from pathlib import Path
from typing import Any

import pytest

from handler import HandlerError, Service, Settings
from handler.graphs import BadWorkflow
from handler.pipeline import run
from handler.settings import BadSettings
from tests.support import graphs
from tests.support.api import Api
from tests.support.comfyui import Comfyui

IMAGE = graphs.as_base64(graphs.picture((96, 64), "navy"))

GOOD = """
from pydantic import BaseModel
class RequestSchema(BaseModel):
    width: int = 64
def generate_workflow(input):
    size = {"width": input.width, "height": 64, "batch_size": 1, "color": 0}
    return {"1": {"class_type": "EmptyImage", "inputs": size},
            "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "w", "images": ["1", 0]}}}
"""


TYPED = """
import datetime, enum
from pydantic import BaseModel
class Method(str, enum.Enum):
    fast = "fast"
class RequestSchema(BaseModel):
    method: Method
    size: tuple[int, int]
    when: datetime.datetime | None = None
def generate_workflow(input):
    size = {"width": input.size[0], "height": input.size[1], "batch_size": 1, "color": input.when.year}
    return {"1": {"class_type": "EmptyImage", "inputs": size},
            "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": input.method.value, "images": ["1", 0]}}}
"""


def asked(service: Service, route: str, /, **fields: Any) -> dict[str, Any]:
    return run({"input": {"workflow": route, "input": fields}}, service)


def refused(service: Service, route: str, /, **fields: Any) -> HandlerError:
    with pytest.raises(HandlerError) as caught:
        asked(service, route, **fields)
    return caught.value


def of(service: Service, **changes: Any) -> Service:
    return Service.load(service.settings.model_copy(update=changes))


@pytest.mark.parametrize(
    ("route", "given", "size"),
    [
        ("flux/txt2img", {"width": 256, "height": 320}, (256, 320)),
        ("flux/img2img", {"width": 256, "height": 256, "image": IMAGE}, (256, 256)),
        ("text2img", {"width": 256, "height": 256, "steps": 2}, (256, 256)),
        ("sd1.5/txt2img", {"width": 256, "height": 256, "steps": 2}, (256, 256)),
        ("sd1.5/img2img", {"width": 64, "height": 64, "steps": 2, "image": IMAGE}, (64, 40)),
    ],
)
def test_each_workflow_draws(
    service: Service, clean: Comfyui, route: str, given: dict[str, Any], size: tuple[int, int]
) -> None:
    answer = asked(service, route, prompt="a salad", **given)
    assert graphs.opened(answer["images"][0]).size == size
    assert answer["input"].keys() > given.keys()


def test_the_defaults_and_the_seed_are_shown(service: Service, clean: Comfyui) -> None:
    first, second = (asked(service, "flux/txt2img", prompt="a", width=256, height=256)["input"] for _ in range(2))
    seed = first.pop("seed")
    assert 0 <= seed < 10**15
    assert seed != second["seed"]
    assert first == {
        "prompt": "a",
        "width": 256,
        "height": 256,
        "steps": 4,
        "cfg_scale": 1,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1,
        "checkpoint": "flux1-schnell-fp8.safetensors",
    }


def test_a_given_seed_is_used(service: Service, clean: Comfyui) -> None:
    answer = asked(service, "flux/txt2img", prompt="a", width=256, height=256, seed=7)
    assert answer["input"]["seed"] == answer["prompt"]["31"]["inputs"]["seed"] == 7


@pytest.mark.parametrize(
    ("fields", "location", "says"),
    [
        ({}, "input.prompt", "Field required"),
        ({"prompt": 5}, "input.prompt", "valid string"),
        ({"prompt": "a", "width": 255}, "input.width", "greater than or equal to 256"),
        ({"prompt": "a", "width": 0}, "input.width", "greater than or equal to 256"),
        ({"prompt": "a", "width": 2049}, "input.width", "less than or equal to 2048"),
        ({"prompt": "a", "width": 512.5}, "input.width", "valid integer"),
        ({"prompt": "a", "width": "512"}, "input.width", "valid integer"),
        ({"prompt": "a", "steps": 101}, "input.steps", "less than or equal to 100"),
        ({"prompt": "a", "seed": None}, "input.seed", "valid integer"),
        ({"prompt": "a", "sampler_name": "eular"}, "input.sampler_name", "did you mean 'euler'"),
        ({"prompt": "a", "scheduler": "x"}, "input.scheduler", "is not one of ComfyUI's"),
        ({"prompt": "a", "checkpoint": "flux.safetensors"}, "input.checkpoint", "'flux1-schnell-fp8.safetensors'"),
    ],
)
def test_a_bad_field_is_named(
    service: Service, clean: Comfyui, fields: dict[str, Any], location: str, says: str
) -> None:
    error = refused(service, "flux/txt2img", **fields)
    assert (error.code, error.location) == ("BAD_REQUEST", location)
    assert says in error.message


def test_what_only_comfyui_can_check_is_refused_by_comfyui(service: Service, clean: Comfyui) -> None:
    error = refused(service, "flux/txt2img", prompt="a", seed=-1)
    assert (error.code, error.location) == ("PROMPT_REJECTED", "prompt.31.inputs.seed")


def test_unknown_fields_of_the_input_are_ignored(service: Service, clean: Comfyui) -> None:
    answer = asked(service, "flux/txt2img", prompt="a", width=256, height=256, nonsense=True)
    assert "nonsense" not in answer["input"]


def test_both_routes_of_a_workflow_answer_alike(api: Api, clean: Comfyui) -> None:
    body = {"input": {"prompt": "a", "width": 256, "height": 256}, "id": "wf", "convert_output": {"format": "webp"}}
    for folder in ("workflow", "workflows"):
        answer = api("POST", f"/{folder}/flux/txt2img", json=body)
        assert answer.status_code == 200
        assert answer.json()["filenames"] == ["wf_Flux_00001_.webp"]
        assert {"input", "prompt", "convert_output"} < answer.json().keys()
        assert "workflow" not in answer.json()


@pytest.mark.parametrize("body", [{}, {"input": None}, {"input": "text"}, {"prompt": "flat"}])
def test_a_body_without_input_is_refused(api: Api, clean: Comfyui, body: Any) -> None:
    answer = api("POST", "/workflow/flux/txt2img", json=body)
    assert (answer.status_code, answer.json()["location"]) == (400, "input")


def test_an_image_that_cannot_be_fetched_is_named_by_its_node(api: Api, clean: Comfyui) -> None:
    body = {"input": {"prompt": "a", "image": "http://127.0.0.1:1/x.png"}}
    answer = api("POST", "/workflow/flux/img2img", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "INPUT_UNAVAILABLE")
    assert answer.json()["location"] == "prompt.37.inputs.image"


def test_the_checkpoint_of_the_warm_up_graph_stands_in_for_a_missing_one(
    service: Service, clean: Comfyui, tmp_path: Path
) -> None:
    source = (service.settings.workflow_dir / "flux" / "txt2img.py").read_text()
    (tmp_path / "own.py").write_text(source.replace("flux1-schnell-fp8.safetensors", "mine.safetensors"))
    warmup = service.settings.workflow_dir / "warmup" / "dreamshaper.json"
    with_warmup = of(service, workflow_dir=tmp_path, warmup_prompt_file=warmup)
    size = {"width": 256, "height": 256}
    assert asked(with_warmup, "own", prompt="a", **size)["input"]["checkpoint"] == "dreamshaper_8.safetensors"
    without = refused(of(service, workflow_dir=tmp_path), "own", prompt="a", **size)
    assert "'mine.safetensors' is not in the list" in without.message


def test_folders_may_have_any_name(service: Service, clean: Comfyui, tmp_path: Path) -> None:
    for route in ("v1.5/a b/é", "x"):
        file = tmp_path / f"{route}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(GOOD)
    (tmp_path / "_helper.py").write_text("raise SystemExit")
    own = of(service, workflow_dir=tmp_path)
    assert set(own.workflows) == {"v1.5/a b/é", "x"}
    assert len(asked(own, "v1.5/a b/é")["images"]) == 1


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def (", "SyntaxError"),
        ("import no_such_module", "ModuleNotFoundError"),
        ("1 / 0", "ZeroDivisionError"),
        ("x = 1", "RequestSchema"),
        ("RequestSchema = dict\ndef generate_workflow(input): ...", "RequestSchema"),
        (GOOD.replace("generate_workflow", "generate"), "generate_workflow"),
    ],
)
def test_a_broken_file_stops_the_start_with_its_name(
    settings: Settings, tmp_path: Path, source: str, says: str
) -> None:
    (tmp_path / "broken.py").write_text(source)
    with pytest.raises(BadWorkflow, match=rf"broken\.py: .*{says}") as caught:
        Service.load(settings.model_copy(update={"workflow_dir": tmp_path}))
    assert "\n" not in str(caught.value)


def test_a_missing_folder_stops_the_start(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BadWorkflow, match="WORKFLOW_DIR"):
        Service.load(settings.model_copy(update={"workflow_dir": tmp_path / "none"}))


@pytest.mark.parametrize("content", [None, "{", '{"1": {"class_type": "A"}}'])
def test_a_bad_warm_up_file_stops_the_start(settings: Settings, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "warmup.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BadSettings, match="WARMUP_PROMPT_FILE"):
        Service.load(settings.model_copy(update={"warmup_prompt_file": file}))


@pytest.mark.parametrize("model", ["flux-schnell", "flux-dev", "dreamshaper"])
def test_each_warm_up_graph_runs(service: Service, clean: Comfyui, model: str) -> None:
    warm = of(service, warmup_prompt_file=service.settings.workflow_dir / "warmup" / f"{model}.json")
    assert warm.warmup_graph is not None
    assert len(run({"input": {"prompt": warm.warmup_graph}}, warm)["images"]) == 1


def test_fields_may_have_types_that_json_does_not_have(service: Service, clean: Comfyui, tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(TYPED)
    own = of(service, workflow_dir=tmp_path)
    fields = {"method": "fast", "size": [64, 32], "when": "2026-01-02T03:04:05Z"}
    answer = asked(own, "typed", **fields)
    assert answer["input"] == fields
    assert graphs.opened(answer["images"][0]).size == (64, 32)
    assert "_fast_" in answer["filenames"][0]
    assert refused(own, "typed", **fields | {"size": ["64", 32]}).location == "input.size.0"
