"""What tests of manifests share: a COMFY_HOME to install into, a repository, a file server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handler.manifest.packages import run_command
from handler.settings import Settings
from tests.support.live import served
from tests.support.manifest_world import Git, World
from tests.support.model_server import Files


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """No installer reaches an index, and Python packages go into an environment of their own."""
    home, venv, programs = tmp_path / "comfyui", tmp_path / "venv", tmp_path / "bin"
    home.mkdir()
    programs.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
    monkeypatch.delenv("DEBIAN_FRONTEND", raising=False)
    for name, value in {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "UV_NO_INDEX": "1",
        "UV_OFFLINE": "1",
        "UV_CACHE_DIR": str(tmp_path / "uv"),
        "PIP_NO_INDEX": "1",
    }.items():
        monkeypatch.setenv(name, value)
    environ = {"COMFY_HOME": str(home), "CACHE_DIR": str(tmp_path / "cache"), "CMD": f"{venv}/bin/python main.py"}
    return World(home, Settings.from_environ({**environ, "ALLOW_PRIVATE_URLS": "true"}), programs)


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """git in a work tree that is pushed to a bare repository: my-node.git, with main, feature/x and the tag v1."""
    tree, bare = tmp_path / "tree", tmp_path / "my-node.git"

    def call(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return run_command(["git", *identity, "-C", str(tree), *arguments], "git").strip()

    tree.mkdir()
    run_command(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(bare)], "git")
    call("init", "--quiet", "--initial-branch=main")
    call("remote", "add", "origin", str(bare))
    for branch, content in (("main", "one"), ("main", "two"), ("feature/x", "x")):
        call("checkout", "--quiet", "-B", branch)
        (tree / "__init__.py").write_text(content)
        call("add", ".")
        call("commit", "--quiet", "-m", content)
        if content == "one":
            call("tag", "v1")
    call("push", "--quiet", "--tags", "origin", "main", "feature/x")
    return call


@pytest.fixture(scope="module")
def files() -> Iterator[tuple[str, Files]]:
    made = Files()
    with served(made.app()) as url:
        yield url, made
