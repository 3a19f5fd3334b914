"""`python -m handler.manifest`, as an image build calls it: it does what it is told, or ends with one line."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.manifest_world import Git, World, imports, wheel
from tests.support.model_server import Files
from tests.support.paths import ROOT

FilesAt = tuple[str, Files]


def models(*given: dict[str, Any]) -> dict[str, Any]:
    return {"models": {"before_start": list(given)}}


def test_it_is_a_command(tmp_path: Path) -> None:
    file = tmp_path / "none.yml"
    command = [sys.executable, "-m", "handler.manifest", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{file}: ")
    assert done.stderr.count("\n") == 1


def test_the_command_says_what_it_would_do_and_with_build_does_it(
    world: World, git: Git, tmp_path: Path, files: FilesAt
) -> None:
    url, served_files = files
    served_files.renew({"/m.safetensors": b"m"})
    given = {
        "pip": [str(wheel(tmp_path, "by_manifest"))],
        "custom_nodes": [f"file://{tmp_path}/my-node.git@v1"],
        **models({"url": f"{url}/m.safetensors", "folder": "loras"}),
    }
    plan = world.command(given)
    assert (plan.returncode, (world.home / "models").exists()) == (0, False)
    assert f"model {world.home}/models/loras/m.safetensors from {url}/m.safetensors" in plan.stdout
    done = world.command(given, "--build")
    assert (done.returncode, done.stderr) == (0, "")
    assert "[3/3] model" in done.stdout
    assert imports(world, "by_manifest")
    assert (world.home / "custom_nodes/my-node/__init__.py").read_text() == "one"
    assert (world.home / "models/loras/m.safetensors").read_bytes() == b"m"


def test_each_part_and_each_model_can_have_a_layer_of_its_own(
    world: World, git: Git, tmp_path: Path, files: FilesAt
) -> None:
    url, served_files = files
    served_files.renew({"/a.safetensors": b"a", "/b?x=1": b"b", "/b": b"b"})
    given = {
        "pip": [str(wheel(tmp_path, "by_manifest"))],
        "custom_nodes": [f"file://{tmp_path}/my-node.git"],
        **models(
            {"url": f"{url}/a.safetensors", "folder": "loras"},
            {"url": f"{url}/b", "folder": "loras", "filename": "b.safetensors"},
        ),
    }

    def built(*only: str) -> list[str]:
        done = world.command(given, "--build", "--only", *only)
        assert (done.returncode, done.stderr) == (0, "")
        there = [*(world.home / "custom_nodes").glob("*"), *(world.home / "models/loras").glob("[ab]*")]
        return sorted(file.name for file in there)

    assert built("apt") == []
    assert built("pip", "custom_nodes") == ["my-node"]
    assert imports(world, "by_manifest")
    assert built("b.safetensors") == ["b.safetensors", "my-node"]
    assert built("models") == ["a.safetensors", "b.safetensors", "my-node"]
    assert [path for path, _ in served_files.asked] == ["/b", "/a.safetensors"]


def test_the_token_of_the_hub_comes_from_a_secret(world: World, tmp_path: Path, files: FilesAt) -> None:
    url, served_files = files
    served_files.renew({"/o/r/resolve/main/m.safetensors": b"m"})
    served_files.tokens["/o/r/resolve/main/m.safetensors"] = "hf_secret"
    given = models({"url": "hf://o/r/m.safetensors", "folder": "loras"})
    secret = tmp_path / "hf_token"

    def built() -> tuple[int, str, str]:
        done = world.command(given, "--build", "--token-file", str(secret), HF_ENDPOINT=url, ALLOW_PRIVATE_URLS="false")
        return done.returncode, done.stdout, done.stderr

    code, _, complaint = built()
    assert code == 1
    assert complaint == (
        f"model {world.home}/models/loras/m.safetensors: hf://o/r/m.safetensors answered 401 Unauthorized. "
        "No HF_TOKEN is set, and the hub asks for one where a model is gated.\n"
    )
    secret.write_text("hf_secret\n")
    code, log, complaint = built()
    assert (code, complaint) == (0, "")
    assert "hf_secret" not in log
    secret.write_bytes(b"\xff")
    assert built()[2] == f"--token-file {secret}: it cannot be read: UnicodeDecodeError\n"


def pushed(git: Git, file: Path, content: str) -> None:
    """Change a file of my-node.git."""
    git("checkout", "--quiet", "main")
    file.write_text(content)
    git("add", ".")
    git("commit", "--quiet", "-m", "a change")
    git("push", "--quiet", "origin", "main")


def test_what_cannot_be_installed_stops_the_build_with_one_line_that_names_it(
    world: World, git: Git, tmp_path: Path, files: FilesAt
) -> None:
    url, served_files = files
    served_files.renew({"/m.safetensors": b"m"})
    node = f"file://{tmp_path}/my-node.git"
    pushed(git, tmp_path / "tree/requirements.txt", "no-such-package\n")
    (world.home / "models/loras").mkdir(parents=True)
    model = {"url": f"{url}/m.safetensors", "folder": "loras"}
    path, digest = f"{world.home}/models/loras/m.safetensors", hashlib.sha256(b"m").hexdigest()
    for given, only, complaint in [
        (
            models(model | {"sha256": "0" * 64}),
            (),
            f"model {path}: {url}/m.safetensors has the sha256 {digest}, not 000",
        ),
        (models(model | {"url": f"{url}/none"}), (), f"model {world.home}/models/loras/none: {url}/none answered 404"),
        (
            models(model),
            ("--only", "mm.safetensors"),
            "--only mm.safetensors: there is no such part or model; there are: apt,",
        ),
        ({"custom_nodes": [node]}, (), f"custom node {node}: requirements.txt: "),
        ({"custom_nodes": [f"{node}@none"]}, (), f"custom node {node}@none: "),
        ({"custom_nodes": [f"file://{tmp_path}/none.git"]}, (), f"custom node file://{tmp_path}/none.git: "),
        ({"pip": ["no-such-package"]}, (), "pip packages no-such-package: "),
        (
            models({"url": f"{url}/m.safetensors", "local_path": "models/loras"}),
            (),
            f"{world.home}/manifest.json: models.before_start.0: 'models/loras' is a folder;",
        ),
        ({"models": {"before": []}}, (), f"{world.home}/manifest.json: models: `before` is not known"),
    ]:
        done = world.command(given, "--build", *only)
        assert done.returncode == 1
        assert done.stderr.startswith(complaint)
        assert done.stderr.count("\n") == 1
    assert not Path(path).exists()


def test_a_node_that_comfyui_cannot_import_stops_the_build(world: World, git: Git, tmp_path: Path) -> None:
    """ComfyUI itself goes on without it and exits with 0, so that the first request would find out."""
    shutil.copy(ROOT / "tests/support/comfyui_main.py", world.home / "main.py")
    given = {"custom_nodes": [f"file://{tmp_path}/my-node.git"]}
    pushed(git, tmp_path / "tree/__init__.py", "x = 1")
    assert world.command(given, "--build", "--imports").returncode == 0
    for content, reason in [("import not_there", "No module named 'not_there'"), ("raise ValueError()", "ValueError")]:
        (world.home / "custom_nodes/my-node/__init__.py").write_text(content)
        done = world.command(given, "--imports")
        assert done.returncode == 1
        assert done.stderr == f"ComfyUI cannot import its custom nodes my-node ({reason}).\n"


def test_a_node_of_comfyui_s_own_that_it_cannot_import_stops_the_build(world: World) -> None:
    shutil.copy(ROOT / "tests/support/comfyui_main.py", world.home / "main.py")
    extras = world.home / "comfy_extras"
    extras.mkdir()
    (extras / "nodes_audio.py").write_text("import not_there")
    (extras / "nodes_mask.py").write_text("x = 1")
    done = world.command({}, "--imports")
    assert done.returncode == 1
    assert done.stderr == "ComfyUI cannot import its own nodes nodes_audio.py (the log says more).\n"


@pytest.mark.parametrize("content", ["import not_there", "raise SystemExit(3)"])
def test_a_comfyui_that_cannot_be_imported_stops_the_build(world: World, content: str) -> None:
    (world.home / "main.py").write_text(content)
    done = world.command({}, "--imports")
    assert done.returncode == 1
    assert done.stderr.startswith("ComfyUI cannot be imported: ")
    assert done.stderr.count("\n") == 1
