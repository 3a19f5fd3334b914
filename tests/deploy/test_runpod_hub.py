"""The files of the RunPod Hub, by the rules of its publishing guide, and the example that RunPod's SDK picks up."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from handler import Settings
from handler.runpod.worker import MAX_RESULT_SIZE_MB
from tests.support import graphs
from tests.support.paths import ROOT
from tests.support.processes import comfyui_processes, environment, running
from tests.support.runpod_queue import RunPodQueue

HUB = ROOT / ".runpod"
# docs.runpod.io: hub/publishing-guide and references/gpu-types
POOLS = {
    *("AMPERE_16", "AMPERE_24", "ADA_24", "ADA_32_PRO", "AMPERE_48", "ADA_48_PRO", "AMPERE_80", "ADA_80_PRO"),
    "HOPPER_141",
}
GPUS = {"NVIDIA GeForce RTX 4090", "NVIDIA L40S", "NVIDIA A40", "NVIDIA RTX A6000"}
# Read by scripts/entrypoint.
NO_SETTINGS = {"COMFYUI_ARGS"}

Cuda = Annotated[str, Field(pattern=r"^\d+\.\d$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Option(Strict):
    label: str
    value: str


class Text(Strict):
    type: Literal["string"]
    name: str
    description: str
    default: str
    options: list[Option] = []
    advanced: bool = False


class Number(Strict):
    type: Literal["number"]
    name: str
    description: str
    min: int
    max: int
    default: int
    advanced: bool = False


class Switch(Strict):
    type: Literal["boolean"]
    name: str
    description: str
    default: bool
    true_value: Literal["true"] = Field(alias="trueValue")
    false_value: Literal["false"] = Field(alias="falseValue")
    advanced: bool = False


class Variable(Strict):
    key: str
    input: Annotated[Text | Number | Switch, Field(discriminator="type")]


class Preset(Strict):
    name: str
    defaults: dict[str, str | int | bool]


class Config(Strict):
    runs_on: Literal["GPU"] = Field(alias="runsOn")
    container_disk_in_gb: int = Field(alias="containerDiskInGb", gt=0)
    gpu_count: int = Field(alias="gpuCount", ge=1)
    gpu_ids: str = Field(alias="gpuIds")
    allowed_cuda_versions: list[Cuda] = Field(alias="allowedCudaVersions")
    presets: list[Preset]
    env: list[Variable]


class Hub(Strict):
    title: str
    description: str
    type: Literal["serverless"]
    category: Literal["audio", "embedding", "language", "video", "image"]
    config: Config


class Case(Strict):
    name: str
    input: dict[str, Any]
    timeout: int = Field(gt=0)


class Given(Strict):
    key: str
    value: str


class Machine(Strict):
    gpu_type_id: str = Field(alias="gpuTypeId")
    gpu_count: int = Field(alias="gpuCount", ge=1)
    env: list[Given]
    allowed_cuda_versions: list[Cuda] = Field(alias="allowedCudaVersions")


class Cases(Strict):
    tests: list[Case] = Field(min_length=1)
    config: Machine


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), "a key twice"
    return dict(pairs)


def read(file: Path) -> Any:
    return json.loads(file.read_text(), object_pairs_hook=unique)


HUB_FILE = Hub.model_validate(read(HUB / "hub.json"))
TESTS_FILE = Cases.model_validate(read(HUB / "tests.json"))
VARIABLES = {one.key: one.input for one in HUB_FILE.config.env}


def as_text(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def settings(**environ: str) -> Settings:
    """The image's: a command of its own, and ComfyUI in /opt/ComfyUI."""
    names = {name: value for name, value in environ.items() if name not in NO_SETTINGS}
    assert {name.lower() for name in names} <= set(Settings.model_fields)
    return Settings.from_environ({"CMD": "python main.py", **names})


def test_names_are_unique() -> None:
    assert len(VARIABLES) == len(HUB_FILE.config.env)
    assert len({case.name for case in TESTS_FILE.tests}) == len(TESTS_FILE.tests)
    assert len({preset.name for preset in HUB_FILE.config.presets}) == len(HUB_FILE.config.presets)


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_is_a_setting_with_its_own_default(name: str) -> None:
    given = VARIABLES[name]
    if name in NO_SETTINGS:
        assert name in (ROOT / "scripts" / "entrypoint").read_text()
        return
    default, field = as_text(given.default), name.lower()
    ours = getattr(settings(), field)
    if name == "MAX_RESULT_SIZE_MB":
        ours = MAX_RESULT_SIZE_MB
    assert getattr(settings(**{name: default}), field) == ours


@pytest.mark.parametrize(("name", "given"), list(VARIABLES.items()))
def test_what_can_be_chosen_is_taken(name: str, given: Text | Number | Switch) -> None:
    match given:
        case Number():
            assert given.min <= given.default <= given.max
            choices = [str(given.min), str(given.max)]
        case Switch():
            choices = [given.true_value, given.false_value]
        case Text():
            choices = [option.value for option in given.options]
            assert not choices or given.default in choices
    for choice in choices:
        settings(**{name: choice})


def test_presets_give_values_to_the_variables() -> None:
    for preset in HUB_FILE.config.presets:
        assert preset.defaults.keys() <= VARIABLES.keys()
        for name, value in preset.defaults.items():
            assert type(value) is type(VARIABLES[name].default)
        settings(**{name: as_text(value) for name, value in preset.defaults.items()})


def test_the_machines_are_runpods_and_can_run_the_image() -> None:
    config, machine = HUB_FILE.config, TESTS_FILE.config
    assert set(config.gpu_ids.split(",")) <= POOLS
    assert machine.gpu_type_id in GPUS
    cuda = re.findall(r"^ARG BASE_IMAGE=nvidia/cuda:(\d+\.\d+)", (HUB / "Dockerfile").read_text(), re.MULTILINE)
    for versions in (config.allowed_cuda_versions, machine.allowed_cuda_versions):
        assert min(map(number, versions)) >= number(cuda[0])
    settings(**{one.key: one.value for one in machine.env})


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_the_hub_builds_the_image_of_flux_schnell() -> None:
    """As root, to whom RunPod's volumes belong. The Hub takes no other name for the file, and no link."""
    flux = (ROOT / "Dockerfile.flux-schnell").read_text()
    assert "\nARG RUN_AS=10001\n" in flux
    told = "sed 's/^ARG RUN_AS=10001$/ARG RUN_AS=0/' Dockerfile.flux-schnell > .runpod/Dockerfile"
    assert (HUB / "Dockerfile").read_text() == flux.replace("\nARG RUN_AS=10001\n", "\nARG RUN_AS=0\n"), told
    assert not any((HUB / name).is_symlink() for name in ("Dockerfile", "handler.py"))
    assert (ROOT / "README.md").is_file()


def test_the_jobs_of_the_hub_s_tests_succeed(tmp_path: Path) -> None:
    with RunPodQueue().running() as runpod:
        runpod.jobs = [{"id": case.name, "input": case.input} for case in TESTS_FILE.tests]
        given = {one.key: one.value for one in TESTS_FILE.config.env}
        with running("handler", environment(tmp_path, **given, **runpod.env())):
            results = runpod.taken(len(TESTS_FILE.tests))
    assert results.keys() == {case.name for case in TESTS_FILE.tests}
    for name, result in results.items():
        assert "error" not in result, name
        assert result["output"]["images"], name
    resized = results["image_resized"]["output"]["images"][0]["data"]
    assert graphs.opened(resized).getpixel((128, 128)) == (242, 177, 52)


@pytest.mark.parametrize("command", [["-m", "handler"], [".runpod/handler.py"]])
def test_the_worker_runs_the_example_that_lies_in_its_folder(command: list[str], tmp_path: Path) -> None:
    env = environment(tmp_path)
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    shown = done.stdout + done.stderr
    assert done.returncode == 0, shown
    assert "Using test_input.json as job input." in shown
    assert "'filename': 'ball_00001_.png', 'type': 'base64'" in shown
    assert comfyui_processes(tmp_path) == []
