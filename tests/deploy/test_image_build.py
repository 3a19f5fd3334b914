"""Dockerfile.dreamshaper, built and started for real, without a Docker engine: `scripts/test -m image`.

buildah builds it in a chroot, on a Debian that debootstrap makes, from local stand-ins for what is not reachable; PyPI and
Debian's packages are. It takes two minutes and 3 GB of disk for a while.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support import image_supplies
from tests.support.dockerfiles import SHARED_END
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif(
        os.geteuid() != 0 or not (shutil.which("buildah") and shutil.which("debootstrap")),
        reason="needs root, buildah and debootstrap",
    ),
]
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
CONTEXT = (
    "LICENSE",
    "pyproject.toml",
    ".dockerignore",
    "scripts",
    "handler",
    "emulator",
    "workflows",
    "Dockerfile.dreamshaper",
)


class Buildah:
    """buildah with storage of its own, and the image that it builds: `built`."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.context = folder / "context"
        storage = ["--root", str(folder / "storage"), "--runroot", str(folder / "run")]
        self.command = ["buildah", *storage]

    def __call__(self, *words: str) -> str:
        done = subprocess.run([*self.command, *words], capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def base(self) -> None:
        """The image `base`: a Debian with this machine's sources of packages and certificates."""
        root = self.folder / "debian"
        suite = Path("/etc/os-release").read_text().split("VERSION_CODENAME=")[1].split()[0]
        uris = subprocess.check_output(
            ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"], text=True
        )
        mirror = next(uri for uri in uris.split() if "security" not in uri)
        command = ["debootstrap", "--variant=minbase", "--include=ca-certificates", suite, str(root), mirror]
        subprocess.run(command, check=True, timeout=600, stdout=subprocess.DEVNULL)
        shutil.copy(CERTIFICATES, f"{root}{CERTIFICATES}")
        container = self("from", "scratch")
        self("copy", "--quiet", container, str(root), "/")
        self("config", "--env", f"SSL_CERT_FILE={CERTIFICATES}", "--env", f"HF_ENDPOINT={self.url}", container)
        self("commit", "--quiet", container, "localhost/base")
        self("rm", container)
        shutil.rmtree(root)

    def build(
        self, file: Path, manifest: str, tag: str, *, token: bool = True, **arguments: str
    ) -> subprocess.CompletedProcess[str]:
        (self.context / "workflows/manifests/mine.yml").write_text(manifest)
        (self.folder / "token").write_text(f"{image_supplies.TOKEN}\n")
        given = {
            "BASE_IMAGE": "localhost/base",
            "TORCH_INDEX_URL": f"{self.url}/simple",
            "COMFYUI_REPOSITORY": "file:///supplies/ComfyUI.git",
            "MANIFEST_FILE": "workflows/manifests/mine.yml",
            **arguments,
        }
        words = ["--isolation", "chroot", "--format", "docker", "--volume", f"{self.folder}/supplies:/supplies:ro"]
        words += ["--secret", f"id=hf_token,src={self.folder}/token"] if token else []
        words += [word for key, value in given.items() for word in ("--build-arg", f"{key}={value}")]
        return subprocess.run(
            [*self.command, "bud", *words, "--file", str(file), "--tag", tag, str(self.context)],
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    folder = tmp_path_factory.mktemp("image")
    supplies = image_supplies.made(folder / "supplies")
    try:
        with image_supplies.served(supplies) as url:
            found = Buildah(folder, url)
            found.base()
            found.context.mkdir()
            for name in CONTEXT:
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, found.context / name)
            yield found
            found("rm", "--all")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def image(buildah: Buildah) -> Buildah:
    manifest = image_supplies.manifest("dreamshaper_8.safetensors")
    done = buildah.build(buildah.context / "Dockerfile.dreamshaper", manifest, "built")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    sys.stdout.write(done.stdout)
    return buildah


@pytest.fixture(scope="module")
def container(image: Buildah) -> str:
    return image("from", "built")


def command(buildah: Buildah, container: str, *words: str, **environ: str) -> list[str]:
    """What runs the image's entrypoint in a container, as its user. ComfyUI's port is on this machine's loopback, too."""
    given = {"HOST": "127.0.0.1", "COMFYUI_PORT_HOST": str(free_port()), **environ}
    options = [word for key, value in given.items() for word in ("--env", f"{key}={value}")]
    entry = ["tini", "-s", "--", "/app/entrypoint", *words]
    return [*buildah.command, "run", "--isolation", "chroot", "--user", "10001", *options, container, "--", *entry]


def descendants(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield int(child)
            yield from descendants(int(child))


class Running:
    """The HTTP API in a container, warm; ended as Docker does it, by SIGTERM to the first process. Then `log` is there."""

    def __init__(self, buildah: Buildah, container: str, **environ: str) -> None:
        self.port, self.log = free_port(), ""
        words = command(buildah, container, PORT=str(self.port), **environ)
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __enter__(self) -> "Running":
        try:
            wait_until(self._healthy, 60)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(method, f"http://127.0.0.1:{self.port}{path}", timeout=60, **options)

    def _healthy(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()[0]
        try:
            return self.ask("GET", "/health").status_code == 200
        except requests.ConnectionError:
            return False

    def _stop(self) -> None:
        # buildah, told to end, would kill the container.
        pids = list(descendants(self.process.pid))
        first = [pid for pid in pids if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"tini")]
        for pid in first:
            os.kill(pid, signal.SIGTERM)
        self.log, _ = self.process.communicate(timeout=60)
        assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def test_the_image_is_what_the_dockerfile_says(image: Buildah) -> None:
    config = json.loads(image("inspect", "--type", "image", "built"))["Docker"]["config"]
    environ = dict(pair.split("=", 1) for pair in config["Env"])
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("10001", "/app", "SIGTERM")
    assert config["Entrypoint"] == ["tini", "-s", "--", "/app/entrypoint"]
    assert config["ExposedPorts"] == {"3000/tcp": {}}
    assert "/health" in config["Healthcheck"]["Test"][-1]
    assert environ["MANIFEST"] == "/app/manifest.yml"
    assert environ["WARMUP_PROMPT_FILE"] == "/app/workflows/warmup/dreamshaper.json"
    assert config["Labels"]["comfyui.version"] == "v0.3.64"
    assert config["Labels"]["org.opencontainers.image.licenses"].endswith("OpenRAIL-M")


def test_the_image_holds_the_weights_and_no_secret(image: Buildah, container: str) -> None:
    root = Path(image("mount", container))
    weights = root / "opt/ComfyUI/models/checkpoints/dreamshaper_8.safetensors"
    assert weights.read_bytes() == image_supplies.WEIGHTS
    packages = root.glob("opt/venv/comfyui/lib/python3*/site-packages/torchaudio-*")
    assert [folder.name for folder in packages] == ["torchaudio-2.8.0.dist-info"]
    assert weights.stat().st_uid == 10001
    assert (root / "app/handler").stat().st_uid == 0
    assert not (root / "app/tests").exists()
    found = subprocess.run(["grep", "-rlsF", image_supplies.TOKEN, root], capture_output=True, text=True, check=False)
    assert found.stdout == ""
    assert image_supplies.TOKEN not in image("inspect", "--type", "image", "built")


def test_the_image_starts_the_api(image: Buildah, container: str) -> None:
    with Running(image, container) as api:
        asked = {"input": {"prompt": "8-bit video game art of a salad", "steps": 2}}
        answer = api.ask("POST", "/workflow/sd1.5/txt2img", json=asked)
        models = api.ask("GET", "/models").json()
    assert (answer.status_code, len(answer.json()["images"])) == (200, 1)
    assert models["checkpoints"] == ["dreamshaper_8.safetensors"]
    assert api.process.returncode == 0, api.log
    assert "/opt/ComfyUI/main.py --listen 127.0.0.1" in api.log
    assert "warm after" in api.log


def test_the_image_is_a_runpod_worker_when_told(image: Buildah, container: str) -> None:
    job = json.dumps({"input": {"workflow": "sd1.5/txt2img", "input": {"prompt": "a fox", "steps": 2}}})
    words = command(image, container, "handler", "--test_input", job)
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "Job local_test completed successfully" in done.stdout


@pytest.fixture
def own_lines(image: Buildah) -> Path:
    """The Dockerfile's last lines on top of the built image: what varies is built without the rest."""
    _, own = (ROOT / "Dockerfile.dreamshaper").read_text().split(SHARED_END)
    file = image.folder / "Dockerfile.own"
    file.write_text(f"FROM localhost/built AS base\n{own}")
    return file


def test_without_weights_they_are_fetched_at_the_start(image: Buildah, own_lines: Path) -> None:
    manifest = image_supplies.manifest("other.safetensors")
    done = image.build(own_lines, manifest, "bare", token=False, BAKE_MODELS="false")
    assert done.returncode == 0, done.stderr
    container = image("from", "bare")
    weights = Path(image("mount", container)) / "opt/ComfyUI/models/checkpoints/other.safetensors"
    assert not weights.exists()
    with Running(image, container, HF_TOKEN=image_supplies.TOKEN):
        pass
    assert weights.read_bytes() == image_supplies.WEIGHTS


@pytest.mark.parametrize(
    ("given", "token", "complaint"),
    [
        (
            {"model": "other.safetensors"},
            False,
            "answered 401 Unauthorized. No HF_TOKEN is set, and the hub asks for one",
        ),
        ({"model": "other.safetensors", "sha256": "0" * 64}, True, "has the sha256 "),
        ({"model": "none.safetensors"}, True, "model /opt/ComfyUI/models/checkpoints/none.safetensors: "),
        ({"model": "other.safetensors", "node": "none"}, True, "custom node file:///supplies/none.git: "),
    ],
)
def test_the_build_stops_and_says_what_it_lacks(
    image: Buildah, own_lines: Path, given: dict[str, str], token: bool, complaint: str
) -> None:
    done = image.build(own_lines, image_supplies.manifest(**given), "failed", token=token)
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if complaint in line]
