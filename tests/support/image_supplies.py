"""What an image build downloads, in a folder and at a server of this machine: ComfyUI, a custom node, torch, weights."""

import contextlib
import functools
import hashlib
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.paths import ROOT

TOKEN = "hf_not-to-be-found-in-the-image"
WEIGHTS = b"weights" * 100_000
GATED = "/o/r/resolve/main"
# The stand-in's own, for the Python that runs it.
REQUIREMENTS = "starlette\nuvicorn[standard]\npillow\npython-multipart\n"
USER = 10001


def made(folder: Path) -> Path:
    """Fill a folder with everything; it belongs to the image's user, as git asks of a repository."""
    repository(folder / "ComfyUI.git", folder / "ComfyUI", {"requirements.txt": REQUIREMENTS}, stand_in=True)
    node = {"__init__.py": "import colorama\n", "requirements.txt": "colorama\n"}
    repository(folder / "my-node.git", folder / "my-node", node)
    # torchaudio 2.11 asks for no torch: without a word an older torch gets it, and cannot load it.
    for name, version in (
        ("torch", "2.8.0"),
        ("torchvision", "0.23.0"),
        ("torchaudio", "2.8.0"),
        ("torchaudio", "2.11.0"),
    ):
        empty_wheel(folder / "simple" / name, name, version)
    models = folder / GATED[1:]
    models.mkdir(parents=True)
    (models / "dreamshaper_8.safetensors").write_bytes(WEIGHTS)
    (models / "other.safetensors").write_bytes(WEIGHTS)
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, USER, USER)
    return folder


def manifest(model: str, *, sha256: str = hashlib.sha256(WEIGHTS).hexdigest(), node: str = "my-node") -> str:
    return f"""
custom_nodes: ["file:///supplies/{node}.git"]
models:
  before_start:
    - {{url: "hf://o/r/{model}", folder: checkpoints, sha256: "{sha256}"}}
"""


def repository(bare: Path, tree: Path, files: dict[str, str], *, stand_in: bool = False) -> None:
    """A bare repository with a branch main and the tag that the Dockerfiles ask for."""
    tree.mkdir(parents=True)
    if stand_in:
        shutil.copy(ROOT / "tests/support/comfyui_main.py", tree / "main.py")
        shutil.copytree(ROOT / "emulator", tree / "emulator", ignore=shutil.ignore_patterns("__pycache__"))
    for name, content in files.items():
        (tree / name).write_text(content)

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", tree, "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, timeout=60)

    git("init", "--quiet", "--initial-branch=main")
    git("add", ".")
    git("commit", "--quiet", "-m", "all")
    git("tag", "v0.3.64")
    git("clone", "--quiet", "--bare", ".", str(bare))
    shutil.rmtree(tree)


def empty_wheel(folder: Path, name: str, version: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    facts = f"{name}-{version}.dist-info"
    kind = "Wheel-Version: 1.0\nGenerator: a\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{facts}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{facts}/WHEEL", kind)
        archive.writestr(f"{facts}/RECORD", "")


class _Handler(SimpleHTTPRequestHandler):
    """The folder; its listings are a package index, and its weights are for those who have the token."""

    def do_GET(self) -> None:
        if self.path.startswith(GATED) and self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.send_error(401)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve it on loopback; gives the URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
