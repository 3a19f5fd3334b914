"""The folders of a ComfyUI base directory, and the file names that clients and graphs use."""

import mimetypes
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import yaml

# kind of model to its folders in models/
MODEL_FOLDERS = {
    "checkpoints": ("checkpoints",),
    "configs": ("configs",),
    "loras": ("loras",),
    "vae": ("vae",),
    "text_encoders": ("text_encoders", "clip"),
    "diffusion_models": ("unet", "diffusion_models"),
    "clip_vision": ("clip_vision",),
    "style_models": ("style_models",),
    "embeddings": ("embeddings",),
    "diffusers": ("diffusers",),
    "vae_approx": ("vae_approx",),
    "controlnet": ("controlnet", "t2i_adapter"),
    "gligen": ("gligen",),
    "upscale_models": ("upscale_models",),
    "custom_nodes": ("../custom_nodes",),
    "hypernetworks": ("hypernetworks",),
    "photomaker": ("photomaker",),
    "classifiers": ("classifiers",),
    "model_patches": ("model_patches",),
    "audio_encoders": ("audio_encoders",),
}
LEGACY_NAMES = {"unet": "diffusion_models", "clip": "text_encoders"}
# where nodes that save models write
OUTPUT_FOLDERS = ("checkpoints", "clip", "vae", "diffusion_models", "loras")
PLACEHOLDERS = {
    "checkpoints": ("dreamshaper_8.safetensors", "flux1-dev-fp8.safetensors", "flux1-schnell-fp8.safetensors"),
    "loras": ("pixel-art.safetensors",),
}
MODEL_SUFFIXES = frozenset({".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"})
# kinds with suffixes of their own; kinds that are not in MODEL_FOLDERS list all files
SUFFIXES = {"configs": {".yaml"}, "diffusers": {"folder"}, "custom_nodes": set(), "classifiers": {""}}
FILE_TYPES = ("output", "input", "temp")
ANNOTATION = re.compile(r"(?P<name>.*?)\s*\[(?P<type>output|input|temp)\]", re.DOTALL)


class Folders:
    """One ComfyUI's base directory, with the layout of the real one.

    `extra` are YAML files that name more model folders, as for --extra-model-paths-config.
    """

    def __init__(self, base: Path, extra: Iterable[Path] = ()) -> None:
        self.base = Path(os.path.realpath(base))
        # kind of model to its folders, in the order of the search
        self.paths = {
            kind: [Path(os.path.normpath(self.base / "models" / name)) for name in names]
            for kind, names in MODEL_FOLDERS.items()
        }
        for file in extra:
            self.load(file)
        for kind in OUTPUT_FOLDERS:
            self.add(kind, self.base / "output" / kind)

    def load(self, file: Path) -> None:
        """Add the folders of an extra_model_paths file. An invalid file raises any exception, as in ComfyUI."""
        for section in yaml.safe_load(file.read_text(encoding="utf-8")).values():
            if section is None:
                continue
            folders = dict(section)
            top = file.absolute().parent
            if base := folders.pop("base_path", None):
                top /= os.path.expandvars(Path(base).expanduser())
            first = bool(folders.pop("is_default", False))
            for kind, lines in folders.items():
                for line in filter(None, lines.split("\n")):
                    self.add(kind, Path(os.path.normpath(top / line)), first=first)

    def add(self, kind: str, folder: Path, *, first: bool = False) -> None:
        """Add a folder for a kind of model: last in the search, or first."""
        known = self.paths.setdefault(LEGACY_NAMES.get(kind, kind), [])
        if folder in known and not first:
            return
        if folder in known:
            known.remove(folder)
        known.insert(0 if first else len(known), folder)

    def prepare(self) -> None:
        """Create the folders, empty temp/ and add placeholder models where there are none."""
        shutil.rmtree(self.base / "temp", ignore_errors=True)
        for name in FILE_TYPES:
            (self.base / name).mkdir(parents=True, exist_ok=True)
        for folder in MODEL_FOLDERS:
            (self.base / "models" / folder).mkdir(parents=True, exist_ok=True)
        for folder, names in PLACEHOLDERS.items():
            if not self.models(folder):
                for name in names:
                    (self.base / "models" / folder / name).touch()

    def of_type(self, file_type: str) -> Path | None:
        return self.base / file_type if file_type in FILE_TYPES else None

    def models(self, kind: str) -> list[str]:
        """File names of a kind, relative to its folders. They are read from disk each time, so a new file shows at once."""
        wanted = SUFFIXES.get(kind, MODEL_SUFFIXES if kind in MODEL_FOLDERS else ())
        found = {
            (Path(where) / name).relative_to(top).as_posix()
            for top in self.paths[kind]
            for where, _, names in os.walk(top, followlinks=True)
            for name in names
            if not wanted or os.path.splitext(name)[1].lower() in wanted  # noqa: PTH122
        }
        return sorted(found)

    def input_images(self) -> list[str]:
        """The files directly in input/ with the suffix of an image."""
        names = [entry.name for entry in os.scandir(self.base / "input") if entry.is_file()]
        return sorted(name for name in names if (mimetypes.guess_type(name)[0] or "").startswith("image/"))

    def input_file(self, name: str) -> Path | None:
        """The file that a LoadImage names, such as "x.png [temp]"; None if it is missing or outside the folder."""
        plain, file_type = split_annotation(name)
        top = self.base / (file_type or "input")
        file = resolve_inside(top, plain)
        return file if file is not None and file.is_file() else None


def split_annotation(name: str) -> tuple[str, str | None]:
    """Split "x.png [input]" into the name and the folder type, which is None for a plain name."""
    match = ANNOTATION.fullmatch(name)
    return (match["name"], match["type"]) if match else (name, None)


def resolve_inside(top: Path, name: str) -> Path | None:
    """The absolute path of a name under `top`; None if it leads out of it."""
    # not Path.resolve: a link inside the folder may lead out of it, as in ComfyUI
    path = Path(os.path.abspath(top / name))  # noqa: PTH100
    return path if path.is_relative_to(top) else None
