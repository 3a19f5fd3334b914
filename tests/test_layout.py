"""Who may know whom."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(file for folder in ("handler", "emulator", "workflows") for file in (ROOT / folder).rglob("*.py"))

# Third-party package to the only places that may import it.
HOMES = {
    "runpod": ("handler/runpod/adapter.py",),
    "uvicorn": ("emulator/__main__.py", "emulator/http/header_timeout.py", "emulator/comfyui/__main__.py"),
    "starlette": ("emulator/",),
    "anyio": ("emulator/",),
    "websocket": ("handler/comfyui/websocket.py",),
    "boto3": ("handler/storage/s3.py",),
    "botocore": ("handler/storage/s3.py",),
    "PIL": ("handler/jobs/images.py", "emulator/comfyui/"),
    "pyvips": ("handler/jobs/images.py",),
    "azure": ("handler/storage/azure.py",),
    "huggingface_hub": ("handler/storage/hf.py",),
    "standardwebhooks": ("handler/webhooks/message.py",),
    "filelock": ("handler/",),
    "prometheus_client": ("emulator/routes/metrics.py",),
    "tenacity": ("handler/",),
    "yaml": ("emulator/routes/docs.py", "handler/manifest/schema.py", "emulator/comfyui/folders.py"),
}


def imported(file: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", SOURCES, ids=name)
def test_a_file_imports_only_what_its_place_allows(file: Path) -> None:
    place = name(file)
    for module in imported(file):
        top = module.partition(".")[0]
        assert place.startswith(HOMES.get(top, ("",))), f"{place} imports {module}"
        assert "__main__" not in module
        assert not (place.startswith("handler/") and top == "emulator")
        assert not (place.startswith("emulator/comfyui/") and top == "handler")


@pytest.mark.parametrize("file", sorted((ROOT / "workflows").rglob("*.py")), ids=name)
def test_a_workflow_file_is_data(file: Path) -> None:
    allowed = {"pydantic", "handler", "handler.choices", "typing"}
    assert {
        module for module in imported(file) if not module.startswith(tuple(f"{one}." for one in allowed))
    } <= allowed
    assert not [module for module in imported(file) if module.startswith("handler.") and "choices" not in module]


def test_only_settings_read_the_environment() -> None:
    words = ("os.environ", "getenv", "from os import")
    readers = {name(file) for file in SOURCES if any(word in file.read_text() for word in words)}
    assert readers == {"handler/settings.py"}


def test_files_stay_short() -> None:
    assert {name(file): length for file in SOURCES if (length := len(file.read_text().splitlines())) > 320} == {}


def test_importing_the_handler_does_not_bring_the_heavy_packages() -> None:
    heavy = "{'runpod', 'starlette', 'uvicorn', 'boto3', 'azure', 'huggingface_hub', 'pyvips', 'fastapi', 'emulator'}"
    code = f"import handler, sys; print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert shown.stdout.strip() == "[]"
