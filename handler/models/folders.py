"""Model folders: which there are, what they hold, and how ComfyUI is told of those on mounted volumes."""

import functools
import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from handler.errors import BadRequest, ComfyError
from handler.settings import Settings

logger = logging.getLogger(__name__)

# Where a volume may hold folders of models. RunPod's pods keep a whole ComfyUI on theirs, its own template in runpod-slim/.
VOLUME_LAYOUTS = ("models", "ComfyUI/models", "runpod-slim/ComfyUI/models")
# What ComfyUI 0.3.64 has in folder_paths.py, for a ComfyUI whose own list cannot be read: folder to kind of model.
_KINDS = {
    **{
        name: name
        for name in (
            *("checkpoints", "configs", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision"),
            *("style_models", "embeddings", "diffusers", "vae_approx", "controlnet", "gligen", "upscale_models"),
            *("hypernetworks", "photomaker", "classifiers", "model_patches", "audio_encoders"),
        )
    },
    "clip": "text_encoders",
    "unet": "diffusion_models",
    "t2i_adapter": "controlnet",
}
MODEL_SUFFIXES = frozenset({".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"})
"""The suffixes of models that ComfyUI lists, in lower case."""
# Kinds with other suffixes; None for any.
_OTHER_SUFFIXES: Mapping[str, frozenset[str] | None] = {
    "configs": frozenset({".yaml"}),
    "diffusers": None,
    "classifiers": None,
}
# What file systems allow.
_MAX_NAME_BYTES = 255
_DECLARED = re.compile(r"""folder_names_and_paths\[["']([^"']+)["']\]\s*=|join\(models_dir,\s*["']([^"']+)["']\)""")
# What is in the first is run as code; the other two are keys with another meaning in such a file.
_NEVER = {"custom_nodes", "base_path", "is_default"}


@dataclass(frozen=True)
class ModelFolder:
    """A folder of models on a volume. `first`: ComfyUI prefers its files to those of other folders."""

    kind: str
    path: Path
    first: bool


def check_model_dir(settings: Settings) -> None:
    """Raise BadRequest when there is no MODEL_DIR."""
    if not settings.model_dir.is_dir():
        raise BadRequest(
            f"MODEL_DIR={str(settings.model_dir)!r} is not a folder on this disk, so no model can be downloaded."
        )


def model_folder(name: str, settings: Settings, comfyui_names: Callable[[], Collection[str]]) -> Path:
    """A folder for downloads in MODEL_DIR. Raises BadRequest for a name that neither ComfyUI nor MODEL_DIR has."""
    root = settings.model_dir
    path, parts = root / name, name.split("/")
    # ComfyUI names custom_nodes among its model folders; what is in there is run as code.
    invalid = any(
        part.startswith(".") or part in ("", "custom_nodes") or "\\" in part or len(part.encode()) > _MAX_NAME_BYTES
        for part in parts
    )
    if invalid or "\0" in name or not (path.is_dir() or name in comfyui_names()):
        known = ", ".join(sorted(entry.name for entry in root.iterdir() if entry.is_dir()))
        raise BadRequest(f"There is no model folder {name!r}; there are: {known}.")
    # The folder of a kind may be a link, to a volume for example; a folder below it must not lead out.
    if not path.resolve().is_relative_to((root / parts[0]).resolve()):
        raise BadRequest(f"The model folder {name!r} leads out of {parts[0]!r}.")
    return path


def make_model_dir(settings: Settings) -> None:
    """Make MODEL_DIR, unless the volume that it is to be on is missing: downloads must not fill the container's disk."""
    folder = settings.model_dir
    if is_folder(folder) or not is_folder(folder.parent):
        return
    try:
        folder.mkdir()
    except OSError as exc:
        logger.warning("MODEL_DIR=%s cannot be made: %s", folder, exc.strerror)


def command_line(settings: Settings) -> list[str]:
    """What ComfyUI's command line needs to know the model folders on volumes. Raises ComfyError.

    It names a file in CACHE_DIR, which is written here; the list is empty when there are no such folders.
    """
    text = extra_model_paths(settings)
    if not text:
        return []
    # Named by its content: workers that share CACHE_DIR and see other folders do not overwrite each other's file.
    name = f"extra_model_paths-{hashlib.sha256(text.encode()).hexdigest()[:12]}.yaml"
    file = settings.cache_dir / name
    try:
        settings.cache_dir.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{name}.{secrets.token_hex(4)}")
        part.write_text(text, encoding="utf-8")
        part.replace(file)
    except OSError as exc:
        raise ComfyError(f"The list of model folders cannot be written to {file}: {exc.strerror}.") from exc
    return ["--extra-model-paths-config", str(file)]


def extra_model_paths(settings: Settings) -> str:
    """The folders as a file that ComfyUI's --extra-model-paths-config takes; empty without any."""
    found = list(model_folders(settings))
    kinds = set(kinds_of_folders(settings.comfy_home).values())
    sections = (("model_dir", True), ("network_volumes", False))
    return "".join(
        _section(name, [one for one in found if one.first is first], kinds, settings) for name, first in sections
    )


def _section(name: str, folders: list[ModelFolder], kinds: set[str], settings: Settings) -> str:
    lines: dict[str, list[Path]] = {}
    for folder in folders:
        lines.setdefault(folder.kind, []).append(folder.path)
    text = ""
    for kind, paths in lines.items():
        # A custom node that finds its kind of model declared does not add ComfyUI's own folder itself.
        own = [] if kind in kinds else [own_models(settings) / kind]
        # ComfyUI puts each folder of a section that goes first before the ones that it has read.
        text += f"  {json.dumps(kind, ensure_ascii=False)}: |-\n" + "".join(f"    {path}\n" for path in own + paths)
    return text and f"{name}:\n" + "  is_default: true\n" * folders[0].first + text


def model_folders(settings: Settings) -> Iterator[ModelFolder]:
    """The folders that ComfyUI is told of beside its own, those of MODEL_DIR before those of the volumes."""
    known = kinds_of_folders(settings.comfy_home)
    seen = {os.path.realpath(own_models(settings))}
    for root in _roots(settings):
        real = os.path.realpath(root)
        if real in seen or not is_folder(root):
            continue
        seen.add(real)
        first = root == settings.model_dir.absolute()
        # Every folder in MODEL_DIR counts, as downloads may make it. At the top of a volume, which may hold anything, only known
        # names count.
        names = _subfolders(root) | (known.keys() if first else set())
        for name in sorted(names if root not in volumes(settings) else names & known.keys()):
            yield ModelFolder(known.get(name, name), root / name, first)


def find_on_volumes(path: Path, settings: Settings) -> Path | None:
    """The file of a volume that ComfyUI takes for the model of a path: of the same name, in a folder of the same kind."""
    kind = kinds_of_folders(settings.comfy_home).get(path.parent.name, path.parent.name)
    if is_file(path):
        return None
    files = (folder.path / path.name for folder in model_folders(settings) if folder.kind == kind)
    return next((file for file in files if file != path and is_file(file)), None)


def _roots(settings: Settings) -> Iterator[Path]:
    yield settings.model_dir.absolute()
    for volume in volumes(settings):
        yield from (volume / layout for layout in VOLUME_LAYOUTS)
        yield volume


def volumes(settings: Settings) -> list[Path]:
    """NETWORK_VOLUMES, mounted or not."""
    return [Path(name.strip()).absolute() for name in settings.network_volumes.split(",") if name.strip()]


def own_models(settings: Settings) -> Path:
    """The folder of model folders that ComfyUI knows by itself."""
    return settings.comfy_home.absolute() / "models"


def kinds_of_folders(comfy_home: Path) -> Mapping[str, str]:
    """Name of a folder to the kind of model that it holds, "unet" to "diffusion_models", as ComfyUI's source has it."""
    source = comfy_home / "folder_paths.py"
    try:
        return _parse_kinds(source, source.stat().st_mtime_ns)
    except OSError:
        return _KINDS


@functools.lru_cache(maxsize=8)
def _parse_kinds(file: Path, _mtime_ns: int) -> Mapping[str, str]:
    source = file.read_text(errors="replace")
    found: dict[str, str] = {}
    kind = ""
    for declared, folder in _DECLARED.findall(source):
        kind = declared or kind
        if folder and kind:
            found[folder] = kind
    return MappingProxyType(found or _KINDS)


def suffixes(kind: str) -> frozenset[str] | None:
    """The suffixes of the files that ComfyUI lists for a kind that it knows, in lower case; None when it lists any file."""
    return _OTHER_SUFFIXES.get(kind, MODEL_SUFFIXES)


def _subfolders(root: Path) -> set[str]:
    try:
        with os.scandir(root) as entries:
            names = {entry.name for entry in entries if entry.is_dir()}
    except OSError as exc:
        logger.warning("%s cannot be read: %s", root, exc.strerror)
        return set()
    return {name for name in names if name.isprintable() and not name.startswith(".")} - _NEVER


def is_file(path: Path) -> bool:
    """Whether the path is a file that we can see."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Whether the path is a folder that we can see."""
    try:
        return path.is_dir()
    except OSError:  # a stale mount, or one without permission
        return False
