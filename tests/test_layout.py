"""Who may import whom, and how long files and functions may be. docs/architecture.md has the picture."""

import ast
import graphlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.paths import ROOT

# From top to bottom: a module imports from the layers below its own, and from its own package.
HANDLER = (
    {"__main__"},
    {"runpod"},
    {"lifecycle"},
    {"pipeline"},
    {"jobs"},
    {"service"},
    {"manifest"},
    {"webhooks"},
    {"comfyui"},
    {"models"},
    {"storage"},
    {"schemas"},
    {"graphs"},
    {"net"},
)
# Below them; these import each other.
GROUND = {"choices", "disk", "errors", "json_codec", "logs", "settings", "threads", "ticket", "urls", "validation"}
EMULATOR = ({"__main__"}, {"app"}, {"lifespan", "routes"}, {"adapter"}, {"http", "listener", "salad", "thread_pools"})
STAND_IN = ({"__main__"}, {"server"}, {"execution"}, {"nodes"})

# Third-party package to the only places that may import it.
HOMES = {
    "runpod": ("handler/runpod/adapter.py",),
    "uvicorn": ("emulator/__main__.py", "emulator/http/header_timeout.py", "emulator/comfyui/__main__.py"),
    "starlette": ("emulator/",),
    "anyio": (),
    "websocket": ("handler/comfyui/websocket.py",),
    "boto3": ("handler/storage/s3.py",),
    "botocore": ("handler/storage/s3.py",),
    "PIL": ("handler/jobs/images.py", "emulator/comfyui/"),
    "pyvips": ("handler/jobs/images.py",),
    "azure": ("handler/storage/azure.py",),
    "huggingface_hub": ("handler/storage/hf.py",),
    "standardwebhooks": ("handler/webhooks/message.py",),
    "filelock": ("handler/models/index.py",),
    "prometheus_client": ("emulator/routes/metrics.py",),
    "yaml": ("emulator/routes/docs.py", "handler/manifest/schema.py", "emulator/comfyui/folders.py"),
}


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = sorted(file for folder in ("handler", "emulator") for file in (ROOT / folder).rglob("*.py"))
WORKFLOWS = sorted((ROOT / "workflows").rglob("*.py"))
MODULES = {module_name(file): file for file in SOURCES}
PACKAGES = {module for module, file in MODULES.items() if file.name == "__init__.py"}


@cache
def imported(file: Path) -> frozenset[str]:
    """What a file imports, wherever in it: modules, and names as module.name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(file)}: imports are absolute"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def owner(imported_name: str) -> str:
    """The module that an imported name is taken from: the name itself if it is a module."""
    return imported_name if imported_name in MODULES else imported_name.rpartition(".")[0]


def package(module: str) -> str:
    return module if module in PACKAGES else module.rpartition(".")[0]


def layer(module: str, root: str, layers: tuple[set[str], ...]) -> int:
    """The higher, the lower in the list; everything that is in no layer is at the bottom."""
    part = module.removeprefix(f"{root}.").partition(".")[0]
    return next((place for place, parts in enumerate(layers) if part in parts), len(layers))


def below(root: str, *but: str) -> Iterator[tuple[str, Path]]:
    for module, file in MODULES.items():
        if module.startswith(f"{root}.") and not module.startswith(but):
            yield module, file


def climbs(root: str, layers: tuple[set[str], ...], *but: str) -> list[str]:
    """The imports that do not go down."""
    return [
        f"{module} imports {other}"
        for module, file in below(root, *but)
        for other in map(owner, imported(file))
        if other.startswith(f"{root}.") and not other.startswith(but)
        if package(module) == root or package(other) != package(module)
        if layer(other, root, layers) <= layer(module, root, layers) < len(layers)
    ]


def test_the_layers_name_every_module() -> None:
    top = {module.split(".")[1] for module, _ in below("handler")}
    assert top == GROUND.union(*HANDLER)
    assert {module.split(".")[1] for module, _ in below("emulator")} == set().union(*EMULATOR) | {"comfyui"}


def test_imports_go_down_the_layers() -> None:
    assert climbs("handler", HANDLER) == []
    assert climbs("emulator", EMULATOR, "emulator.comfyui") == []
    assert climbs("emulator.comfyui", STAND_IN) == []


def test_the_ground_imports_nothing_above_it() -> None:
    ground = {f"handler.{one}" for one in GROUND}
    above = {
        (module, other)
        for module in ground
        for other in map(owner, imported(MODULES[module]))
        if other.startswith("handler") and other not in ground
    }
    assert above == set()


def test_the_handler_the_api_and_the_stand_in_are_apart() -> None:
    for module, file in MODULES.items():
        tops = {other.partition(".")[0] for other in imported(file)}
        assert not (module.startswith("handler") and "emulator" in tops), module
        if module.startswith("emulator.comfyui"):
            assert "handler" not in tops, module
            # What listens is the same for both servers.
            others = {one for one in imported(file) if one.startswith("emulator.")}
            assert all(one.startswith(("emulator.comfyui", "emulator.listener")) for one in others), module


def test_other_packages_use_what_a_package_exports() -> None:
    """`from handler.net import deadline`, never from one of its modules: what is not exported is private."""
    reaching = [
        f"{module} imports {one}"
        for module, file in MODULES.items()
        for one in imported(file)
        if (found := package(owner(one))) in PACKAGES and found not in ("handler", "emulator", package(module))
        if one != found and (one.rpartition(".")[0] != found or one.rpartition(".")[2] not in exports(found))
    ]
    assert reaching == []


@cache
def exports(package_name: str) -> frozenset[str]:
    for node in ast.parse(MODULES[package_name].read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


def test_every_package_says_what_it_holds() -> None:
    for package_name in PACKAGES:
        text = ast.get_docstring(ast.parse(MODULES[package_name].read_text()))
        assert text, package_name
        assert len(text.splitlines()) <= 4, package_name


def test_no_module_imports_itself_through_others() -> None:
    graph = {
        module: {other for other in map(owner, imported(file)) if other in MODULES} for module, file in MODULES.items()
    }
    # A package is imported before its modules, which therefore do not import from it.
    list(graphlib.TopologicalSorter(graph).static_order())


def test_nobody_imports_a_main() -> None:
    assert [module for module, file in MODULES.items() if any("__main__" in one for one in imported(file))] == []


def test_third_party_packages_have_one_home() -> None:
    strangers = [
        f"{name(file)} imports {top}"
        for file in SOURCES
        for top in {one.partition(".")[0] for one in imported(file)}
        if not name(file).startswith(HOMES.get(top, ("",)))
    ]
    assert strangers == []


def test_a_workflow_file_is_data() -> None:
    for file in WORKFLOWS:
        modules = {one for one in imported(file) if not one.startswith(("pydantic.", "typing.", "handler.choices."))}
        assert modules == set(), name(file)


def test_only_settings_read_the_environment() -> None:
    words = ("os.environ", "getenv", "from os import")
    readers = {name(file) for file in SOURCES if any(word in file.read_text() for word in words)}
    assert readers == {"handler/settings.py"}


def test_files_and_functions_stay_short() -> None:
    assert {name(file): lines for file in SOURCES if (lines := len(file.read_text().splitlines())) > 300} == {}
    functions = {
        f"{name(file)}:{node.name}": node.end_lineno - node.lineno + 1
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    }
    assert {function: lines for function, lines in functions.items() if lines > 50} == {}


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(listed) == PACKAGES


def test_importing_the_handler_does_not_bring_the_heavy_packages() -> None:
    heavy = "{'runpod', 'starlette', 'uvicorn', 'boto3', 'azure', 'huggingface_hub', 'pyvips', 'fastapi', 'emulator'}"
    code = f"import handler, sys; print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert shown.stdout.strip() == "[]"
