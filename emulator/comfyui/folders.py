"""Where files live: the folders of a ComfyUI base directory and the names that lead into them."""

import mimetypes
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import yaml

# kind of model to the folders of it in models/
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
# what the nodes that save models write to
OUTPUT_FOLDERS = ("checkpoints", "clip", "vae", "diffusion_models", "loras")
PLACEHOLDERS = {
    "checkpoints": ("dreamshaper_8.safetensors", "flux1-dev-fp8.safetensors", "flux1-schnell-fp8.safetensors"),
    "loras": ("pixel-art.safetensors",),
}
MODEL_SUFFIXES = frozenset({".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"})
# of kinds that are neither here nor above, all files are models
SUFFIXES = {"configs": {".yaml"}, "diffusers": {"folder"}, "custom_nodes": set(), "classifiers": {""}}
FILE_TYPES = ("output", "input", "temp")
ANNOTATION = re.compile(r"(?P<name>.*?)\s*\[(?P<type>output|input|temp)\]", re.DOTALL)


class Folders:
    """The base directory of one ComfyUI, laid out as the real one lays out its own.

    `extra` names files of further folders of models, as --extra-model-paths-config does.
    """

    def __init__(self, base: Path, extra: Iterable[Path] = ()) -> None:
        self.base = Path(os.path.realpath(base))
        # kind of model to where it is looked for, in this order
        self.paths = {
            kind: [Path(os.path.normpath(self.base / "models" / name)) for name in names]
            for kind, names in MODEL_FOLDERS.items()
        }
        for file in extra:
            self.load(file)
        for kind in OUTPUT_FOLDERS:
            self.add(kind, self.base / "output" / kind)

    def load(self, file: Path) -> None:
        """Add the folders of an extra_model_paths file. Raises whatever a bad one raises, as the real one does."""
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
        """Look for a kind of model in one more folder: in the end, or before all others."""
        known = self.paths.setdefault(LEGACY_NAMES.get(kind, kind), [])
        if folder in known and not first:
            return
        if folder in known:
            known.remove(folder)
        known.insert(0 if first else len(known), folder)

    def prepare(self) -> None:
        """Make the folders, empty temp/ and put placeholders where there are no models."""
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
        """Names relative to the folders of a kind, read from disk each time so that a new file is seen at once."""
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
        """The files directly in input/ whose name says that they are images."""
        names = [entry.name for entry in os.scandir(self.base / "input") if entry.is_file()]
        return sorted(name for name in names if (mimetypes.guess_type(name)[0] or "").startswith("image/"))

    def input_file(self, name: str) -> Path | None:
        """The file that a LoadImage names, "x.png [temp]" included; None when there is none or it lies outside."""
        plain, file_type = annotated(name)
        top = self.base / (file_type or "input")
        file = inside(top, plain)
        return file if file is not None and file.is_file() else None


def annotated(name: str) -> tuple[str, str | None]:
    """Split "x.png [input]" into the name and the folder type; a plain name has no type."""
    match = ANNOTATION.fullmatch(name)
    return (match["name"], match["type"]) if match else (name, None)


def inside(top: Path, name: str) -> Path | None:
    """The absolute path of a name under top, or None when it leads out of it."""
    # not Path.resolve: a link inside the folder may lead out of it, as in ComfyUI
    path = Path(os.path.abspath(top / name))  # noqa: PTH100
    return path if path.is_relative_to(top) else None
