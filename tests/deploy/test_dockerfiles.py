"""The Dockerfiles, checked without an engine. tests/test_image_build.py builds one."""

import re
import shlex
import subprocess
from pathlib import Path

import dockerfile
import pytest

from handler.manifest import schema
from handler.settings import Settings
from tests.support.dockerfiles import MODELS, SHARED_END, arguments, instructions, program
from tests.support.paths import ROOT

FILES = [ROOT / f"Dockerfile.{model}" for model in MODELS]
EVERY_FILE = [*FILES, ROOT / "deploy/salad/Dockerfile.queue"]
SCRIPTS = [*(ROOT / "scripts").iterdir(), ROOT / "deploy/salad/with-queue"]
DEFAULTS = {
    "BASE_IMAGE": "nvidia/cuda:12.8.1-base-ubuntu24.04",
    "COMFYUI_REPOSITORY": "https://github.com/comfyanonymous/ComfyUI",
    "COMFYUI_REF": "v0.3.64",
    "TORCH_VERSION": "2.8.0",
    "TORCH_INDEX_URL": "https://download.pytorch.org/whl/cu128",
    "PACKAGES_UNTIL": "2025-11-01",
    "BAKE_MODELS": "true",
    "RUN_AS": "10001",
}


def name(file: Path) -> str:
    return file.name


def environment(file: Path) -> dict[str, str]:
    flat = [shlex.split(word)[0] for one in instructions(file, "ENV") for word in one.value]
    return dict(zip(flat[::2], flat[1::2], strict=True))


@pytest.mark.parametrize("file", EVERY_FILE, ids=name)
def test_hadolint_has_nothing_to_say(file: Path) -> None:
    assert program("hadolint", str(file)) == ""


@pytest.mark.parametrize("file", SCRIPTS, ids=name)
def test_scripts_are_sound(file: Path) -> None:
    assert file.stat().st_mode & 0o111, "it cannot be run"
    program("bash", "-n", str(file))
    program("shellcheck", str(file))


@pytest.mark.parametrize("file", EVERY_FILE, ids=name)
def test_what_run_lines_say_is_sound_shell(file: Path, tmp_path: Path) -> None:
    declared = {value.partition("=")[0] for one in instructions(file, "ARG") for value in one.value}
    for number, one in enumerate(instructions(file, "RUN")):
        # Shell's own rules for a variable that is not set do not know ARG.
        script = tmp_path / f"run-{number}.sh"
        script.write_text("#!/bin/sh\n" + "".join(f"export {arg}=x\n" for arg in declared) + one.value[0] + "\n")
        program("bash", "-n", str(script))
        program("shellcheck", str(script))


def test_the_files_are_the_same_but_for_their_last_lines() -> None:
    """Layers are shared between the images only when what makes them is the same to the byte."""
    halves = [file.read_text().split(SHARED_END) for file in FILES]
    assert [len(half) for half in halves] == [2, 2, 2]
    assert len({shared for shared, _ in halves}) == 1
    tails = {model: own.splitlines() for model, (_, own) in zip(MODELS, halves, strict=True)}
    first = tails["flux-schnell"]
    for own in tails.values():
        assert len(own) == len(first) < 30
        differing = [line.split()[0] for line, other in zip(own, first, strict=True) if line != other]
        assert set(differing) <= {"FROM", "ARG", "LABEL", 'org.opencontainers.image.licenses="MIT'}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_build_arguments_have_their_defaults(file: Path) -> None:
    model = file.suffix[1:]
    own = {"MANIFEST_FILE": f"workflows/manifests/{model}.yml", "WARMUP_FILE": f"workflows/warmup/{model}.json"}
    assert arguments(file) == DEFAULTS | own


@pytest.mark.parametrize("file", FILES, ids=name)
def test_torchaudio_is_the_one_of_this_torch(file: Path) -> None:
    """From 2.11 on it no longer asks for its torch, so that an older torch got one that it cannot load."""
    (install,) = (one.value[0] for one in instructions(file, "RUN") if "torchvision" in one.value[0])
    assert {"torch==$TORCH_VERSION", "torchaudio==$TORCH_VERSION"} <= set(shlex.split(install))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_a_build_argument_is_not_hidden_by_a_variable(file: Path) -> None:
    """ENV wins over ARG of the same name: after `ENV MANIFEST`, `COPY ${MANIFEST}` copied what does not exist."""
    hidden: set[str] = set()
    for one in dockerfile.parse_file(str(file)):
        if one.cmd == "ENV":
            hidden |= set(one.value[::2])
        elif one.cmd != "ARG":
            assert not hidden - {"PATH"} & set(re.findall(r"\$\{?(\w+)", one.original)) & set(arguments(file))


@pytest.mark.parametrize("file", EVERY_FILE, ids=name)
def test_what_is_copied_is_there_and_not_ignored(file: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    for one in instructions(file, "COPY"):
        for source in one.value[:-1]:
            path = re.sub(r"\$\{(\w+)\}", lambda match: arguments(file)[match[1]], source)
            assert (ROOT / path).exists(), source
            assert any(path == entry or path.startswith(f"{entry}/") for entry in allowed), f"{path} is ignored"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_no_secret_is_an_argument_or_a_variable(file: Path) -> None:
    for one in instructions(file, "ARG", "ENV", "LABEL"):
        assert not re.search(r"token|secret|password|key", one.original, re.IGNORECASE), one.original
    mounts = [flag for one in instructions(file, "RUN") for flag in one.flags]
    assert mounts == ["--mount=type=secret,id=hf_token,uid=10001"]


@pytest.mark.parametrize("file", FILES, ids=name)
def test_variables_are_settings(file: Path) -> None:
    found = environment(file)
    tools = {"PATH", "UV_NO_CACHE", "UV_COMPILE_BYTECODE", "UV_EXCLUDE_NEWER"}
    settings = Settings.from_environ({key: value for key, value in found.items() if key not in tools})
    assert {key for key in found if key not in tools} <= {field.upper() for field in Settings.model_fields}
    assert settings.cmd is not None
    assert "--listen 127.0.0.1 " in settings.cmd
    assert settings.comfy_home == Path("/opt/ComfyUI")


@pytest.mark.parametrize("file", FILES, ids=name)
def test_how_it_runs(file: Path) -> None:
    assert [one.value for one in instructions(file, "USER")][-1] == ("${RUN_AS}",)
    assert [one.value for one in instructions(file, "EXPOSE")] == [("3000",)]
    assert [one.value for one in instructions(file, "STOPSIGNAL")] == [("SIGTERM",)]
    assert instructions(file, "CMD") == []
    assert [one.value for one in instructions(file, "ENTRYPOINT")] == [("tini", "-s", "--", "/app/entrypoint")]
    assert "/health" in instructions(file, "HEALTHCHECK")[0].original


def test_licences_are_said() -> None:
    labels = {model: instructions(ROOT / f"Dockerfile.{model}", "LABEL")[-1].original for model in MODELS}
    assert "Apache-2.0" in labels["flux-schnell"]
    assert "Non-Commercial" in labels["flux-dev"]
    assert "OpenRAIL" in labels["dreamshaper"]


@pytest.mark.parametrize("model", MODELS)
def test_a_manifest_says_what_the_image_contains(model: str) -> None:
    """One layer for each big file: as many RUNs that fetch models as there are models."""
    found = schema.read_manifest(ROOT / f"workflows/manifests/{model}.yml", Settings())
    settings = Settings.from_environ({"COMFY_HOME": "/opt/ComfyUI", "CMD": "python main.py"})
    paths = [one.path(settings) for one in found.models.before_start]
    runs = [one.original for one in instructions(ROOT / f"Dockerfile.{model}", "RUN") if "BAKE_MODELS" in one.original]
    assert len(runs) == len(paths)
    warmup = (ROOT / f"workflows/warmup/{model}.json").read_text()
    assert [path.name for path in paths if f'"ckpt_name": "{path.name}"' in warmup] == [path.name for path in paths]
    assert {path.parent for path in paths} == {Path("/opt/ComfyUI/models/checkpoints")}
    assert all(one.sha256 for one in found.models.before_start)
    assert all(re.search(r"@[0-9a-f]{40}$", node) for node in found.custom_nodes)


@pytest.fixture
def entrypoint(tmp_path: Path) -> Path:
    """The image's entrypoint with a Python that says what it is called with."""
    fake, script = tmp_path / "python", tmp_path / "entrypoint"
    fake.write_text('#!/bin/sh\necho "$CMD | $*"\n')
    text = (ROOT / "scripts/entrypoint").read_text()
    assert "/opt/venv/handler/bin/python" in text
    script.write_text(text.replace("/opt/venv/handler/bin/python", str(fake)))
    for file in (fake, script):
        file.chmod(0o755)
    return script


ON_RUNPOD = {"RUNPOD_WEBHOOK_GET_JOB": "https://api.runpod.ai/v2/x/job-take/$RUNPOD_POD_ID"}


@pytest.mark.parametrize(
    ("words", "environ", "run"),
    [
        ([], {}, "python main.py | -m emulator"),
        (["api"], ON_RUNPOD, "python main.py | -m emulator"),
        ([], ON_RUNPOD, "python main.py | -m handler"),
        (["handler", "--test_input", "{} {}"], {}, "python main.py | -m handler --test_input {} {}"),
        ([], {"COMFYUI_ARGS": "--lowvram --fast"}, "python main.py --lowvram --fast | -m emulator"),
        ([], {"COMFYUI_PORT_HOST": "9"}, "python main.py --port 9 | -m emulator"),
        ([], {"CMD": "", "COMFYUI_ARGS": "--fast"}, " | -m emulator"),
        (["echo", "something", "else"], {}, "something else"),
    ],
)
def test_what_a_container_runs(entrypoint: Path, words: list[str], environ: dict[str, str], run: str) -> None:
    env = {"PATH": "/usr/bin:/bin", "CMD": "python main.py", **environ}
    done = subprocess.run([entrypoint, *words], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{run}\n"


@pytest.mark.parametrize(("worker", "code"), [("exit 3", 3), ("exec sleep 60", 0)])
def test_beside_a_job_queue_the_end_of_one_is_the_end_of_both(tmp_path: Path, worker: str, code: int) -> None:
    """The API alone would answer nobody, and the worker alone would fail every job."""
    up = tmp_path / "up"
    api = f"sleep 60 & trap 'echo api ends; kill $!; exit 0' TERM; touch {up}; wait" if code else "sleep 0.2"
    worker = f"until [ -e {up} ]; do sleep 0.05; done; {worker}" if code else worker
    for program_name, body in (("entrypoint", api), ("salad-http-job-queue-worker", worker)):
        (tmp_path / program_name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / program_name).chmod(0o755)
    script = tmp_path / "with-queue"
    script.write_text((ROOT / "deploy/salad/with-queue").read_text().replace("/app/entrypoint", "entrypoint"))
    done = subprocess.run(
        ["bash", script],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "api ends\n" if code else "")
