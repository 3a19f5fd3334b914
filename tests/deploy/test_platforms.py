"""The files for the platforms, each against its platform's own schema, and against what the images are."""

import json
import re
from pathlib import Path
from typing import Any

import hcl2
import kubernetes_validate
import pytest
import yaml

from handler import __version__
from handler.settings import Settings
from tests.support.api import Api
from tests.support.dockerfiles import MODELS, arguments, program
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
SALAD = sorted((DEPLOY / "salad").glob("*.json"))
# What is read by the entrypoint, and by the worker of Salad's job queues.
NO_SETTINGS = {"COMFYUI_ARGS", "SALAD_QUEUE_WORKER_LOG_LEVEL"}
Json = dict[str, Any]


def read(file: Path) -> Json:
    found: Json = json.loads(file.read_text())
    return found


def documents(file: Path) -> list[Json]:
    return list(yaml.safe_load_all(file.read_text()))


def settings_of(environ: dict[str, str]) -> Settings:
    """The settings of an environment whose names are all known."""
    names = {field.upper() for field in Settings.model_fields}
    assert set(environ) - NO_SETTINGS <= names
    return Settings.from_environ({name: value for name, value in environ.items() if name in names})


class Bake:
    """docker-bake.hcl, as far as it is used here: variables in strings, one function, and the target's own fields."""

    def __init__(self) -> None:
        self.file = hcl2.loads((ROOT / "docker-bake.hcl").read_text())
        blocks = {
            kind: {key.strip('"'): body for one in self.file[kind] for key, body in one.items()} for kind in self.kinds
        }
        self.variables = {key: body["default"].strip('"') for key, body in blocks["variable"].items()}
        self.targets, self.groups = blocks["target"], blocks["group"]
        self.pattern = blocks["function"]["tag"]["result"]

    kinds = ("variable", "function", "group", "target")

    def value(self, text: str, **more: str) -> str:
        """A string of the file, with its variables in place."""
        known = {**self.variables, **more}
        text = known.get(text, text).strip('"')
        text = re.sub(r'\$\{replace\((\w+), "(.)", ""\)\}', lambda match: known[match[1]].replace(match[2], ""), text)
        return re.sub(r"\$\{(\w+)\}", lambda match: known[match[1]], text)

    def tag(self, suffix: str) -> str:
        return self.value(self.pattern, suffix=suffix)


@pytest.fixture(scope="module")
def bake() -> Bake:
    return Bake()


def test_tags_say_what_is_inside(bake: Bake) -> None:
    """The pattern of the reference's images, and the model."""
    assert bake.variables["API_VERSION"] == __version__
    tag = bake.tag("-flux-dev").partition(":")[2]
    assert re.fullmatch(r"comfy[\d.]+-api[\d.]+-torch[\d.]+-cuda[\d.]+-flux-dev", tag)
    assert bake.targets["base"]["tags"] == ['${tag("")}']
    assert bake.targets["model"]["tags"] == ['${tag("-${model}")}']


def test_bake_builds_what_the_dockerfiles_say(bake: Bake) -> None:
    base, model = bake.targets["base"], bake.targets["model"]
    given = {key: bake.value(value) for key, value in base["args"].items() if not key.startswith("__")}
    defaults = arguments(ROOT / base["dockerfile"].strip('"'))
    assert given == {key: defaults[key] for key in given}
    assert bake.variables["BASE_IMAGE"].startswith(f"nvidia/cuda:{bake.variables['CUDA_VERSION']}.")
    assert base["target"] == '"base"'
    assert model["inherits"] == ['"base"']
    assert [name.strip('"') for name in model["matrix"]["model"]] == list(MODELS)
    assert [name.strip('"') for name in bake.groups["default"]["targets"]] == list(MODELS)
    assert "id=hf_token," in model["secret"][0]
    for name in MODELS:
        file = ROOT / bake.value(model["dockerfile"], model=name)
        assert f"FROM base AS {name}\n" in file.read_text()


def unknown_keys(found: Any) -> dict[str, Any]:
    """What the SDK took without knowing it."""
    from salad_cloud_sdk.models.utils.base_model import BaseModel

    unknown: dict[str, Any] = dict(getattr(found, "_kwargs", {}))
    for value in vars(found).values():
        if isinstance(value, BaseModel):
            unknown |= unknown_keys(value)
    return unknown


@pytest.mark.parametrize("file", SALAD, ids=lambda file: file.stem)
def test_salads_own_client_takes_the_container_group(file: Path, bake: Bake) -> None:
    from salad_cloud_sdk.models import ContainerGroupCreationRequest

    given = read(file)
    group = ContainerGroupCreationRequest(**given)
    assert unknown_keys(group) == {}
    assert group.container.image == bake.tag(f"-{file.stem}")
    model = file.stem.removesuffix("-queue")
    assert given["container"]["resources"]["memory"] == (30720 if model.startswith("flux") else 12288)
    assert group.replicas == 3
    settings = settings_of(given["container"]["environment_variables"])
    assert settings.host == "::", "Salad's gateway speaks IPv6"
    for probe, path in (("startup_probe", "/health"), ("readiness_probe", "/ready")):
        http = given[probe]["http"]
        assert (http["path"], http["port"], http["scheme"]) == (path, settings.port, "http")
    startup = given["startup_probe"]
    assert startup["period_seconds"] * startup["failure_threshold"] >= 300


@pytest.mark.parametrize("model", MODELS)
def test_a_job_queue_takes_the_place_of_the_gateway(model: str) -> None:
    plain, queued = read(DEPLOY / f"salad/{model}.json"), read(DEPLOY / f"salad/{model}-queue.json")
    assert {key for key in plain.keys() | queued.keys() if plain.get(key) != queued.get(key)} == {
        *("name", "display_name", "container", "networking", "queue_connection")
    }
    assert "networking" not in queued
    connection = queued["queue_connection"]
    assert connection["port"] == 3000
    assert (ROOT / "workflows" / f"{connection['path'].removeprefix('/workflow/')}.py").is_file()
    assert plain["networking"]["port"] == 3000
    assert plain["networking"]["server_response_timeout"] == 100_000


@pytest.mark.parametrize("document", documents(DEPLOY / "kubernetes/api.yaml"), ids=lambda document: document["kind"])
def test_kubernetes_takes_the_documents(document: Json) -> None:
    kubernetes_validate.validate(document, "1.33", strict=True)


def test_a_pod_has_the_time_that_a_shutdown_takes(bake: Bake) -> None:
    deployment, service, budget = documents(DEPLOY / "kubernetes/api.yaml")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environ = {one["name"]: one.get("value", "k") for one in container["env"]}
    settings = settings_of(environ)
    before = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    # ComfyUI gets five seconds, handler/process.py says.
    assert pod["terminationGracePeriodSeconds"] > before + settings.shutdown_grace_s + 5
    assert container["image"] == bake.tag("-flux-schnell")
    assert container["ports"] == [{"name": "http", "containerPort": settings.port}]
    assert pod["securityContext"]["runAsUser"] == int(arguments(ROOT / "Dockerfile.flux-schnell")["RUN_AS"])
    paths = {
        probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert paths == {"startupProbe": "/health", "readinessProbe": "/ready", "livenessProbe": "/health"}
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for selector in (deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]):
        assert selector == labels
    assert budget["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["ports"][0]["targetPort"] == "http"


def test_keda_scales_what_there_is_by_what_prometheus_is_told() -> None:
    deployment, _, _ = documents(DEPLOY / "kubernetes/api.yaml")
    (scaled,) = documents(DEPLOY / "kubernetes/keda.yaml")
    assert (scaled["apiVersion"], scaled["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    (trigger,) = scaled["spec"]["triggers"]
    assert (trigger["type"], set(trigger["metadata"])) == ("prometheus", {"serverAddress", "query", "threshold"})
    assert all(isinstance(value, str) for value in trigger["metadata"].values()), "KEDA takes strings only"
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == "3000"


def test_the_api_tells_prometheus_what_keda_asks(api: Api) -> None:
    (scaled,) = documents(DEPLOY / "kubernetes/keda.yaml")
    deployment, _, _ = documents(DEPLOY / "kubernetes/api.yaml")
    metric = re.findall(r"\((\w+)\)", scaled["spec"]["triggers"][0]["metadata"]["query"])[0]
    answer = api("GET", deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"])
    assert re.search(rf"^{metric} [\d.]+$", answer.text, re.MULTILINE)


def test_compose_takes_the_file() -> None:
    program("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(ROOT / "compose.yaml"))


def test_compose_starts_the_api_and_a_store() -> None:
    (compose,) = documents(ROOT / "compose.yaml")
    api, store = compose["services"]["api"], compose["services"]["s3"]
    defaults = {key: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value) for key, value in api["environment"].items()}
    settings = settings_of(defaults)
    assert api["ports"] == [f"{settings.port}:{settings.port}"]
    assert int(api["stop_grace_period"].removesuffix("s")) > settings.shutdown_grace_s + 5
    assert (ROOT / re.sub(r"\$\{\w+:-(.*?)\}", r"\1", api["build"]["dockerfile"])).is_file()
    assert settings.aws_endpoint_url == "http://s3:5000"
    assert store["ports"] == ["127.0.0.1:5000:5000"]


# https://rest.runpod.io/v1, POST /templates
RUNPOD_FIELDS = {
    *("category", "containerDiskInGb", "containerRegistryAuthId", "dockerEntrypoint", "dockerStartCmd", "env"),
    *("imageName", "isPublic", "isServerless", "name", "ports", "readme", "volumeInGb", "volumeMountPath"),
}


def test_runpod_gets_a_serverless_template(bake: Bake) -> None:
    template = read(DEPLOY / "runpod/template.json")
    assert set(template) <= RUNPOD_FIELDS
    assert template["isServerless"] is True
    assert template["volumeInGb"] == 0, "a serverless template has none"
    assert template["imageName"] == bake.tag("-flux-schnell")
    settings_of(template["env"])


@pytest.mark.parametrize("file", ["docs/deploy.md", "docs/development.md"])
def test_what_the_docs_point_to_is_there(file: str) -> None:
    text = (ROOT / file).read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / file).parent.joinpath(target).exists(), target
    assert max(map(len, text.splitlines())) <= 130


def test_the_page_on_deploying_names_every_file() -> None:
    text = (ROOT / "docs/deploy.md").read_text()
    names = [file.name for file in DEPLOY.rglob("*") if file.is_file() and file not in SALAD]
    for name in [*names, "compose.yaml", "docker-bake.hcl", "`<model>.json`", "`<model>-queue.json`", *MODELS]:
        assert name in text
    assert {file.stem for file in SALAD} == {f"{model}{kind}" for model in MODELS for kind in ("", "-queue")}
