"""Where files live: the folders of a ComfyUI base directory and the names that lead into them."""

import mimetypes
import os
import re
import shutil
from pathlib import Path

MODEL_FOLDERS = (
    "checkpoints",
    "configs",
    "loras",
    "vae",
    "text_encoders",
    "diffusion_models",
    "clip_vision",
    "style_models",
    "embeddings",
    "diffusers",
    "vae_approx",
    "controlnet",
    "gligen",
    "upscale_models",
    "custom_nodes",
    "hypernetworks",
    "photomaker",
    "classifiers",
    "model_patches",
    "audio_encoders",
)
PLACEHOLDERS = {
    "checkpoints": ("dreamshaper_8.safetensors", "flux1-dev-fp8.safetensors", "flux1-schnell-fp8.safetensors"),
    "loras": ("pixel-art.safetensors",),
}
MODEL_SUFFIXES = frozenset({".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"})
FILE_TYPES = ("output", "input", "temp")
ANNOTATION = re.compile(r"(?P<name>.*?)\s*\[(?P<type>output|input|temp)\]", re.DOTALL)


class Folders:
    """The base directory of one ComfyUI, laid out as the real one lays out its own."""

    def __init__(self, base: Path) -> None:
        self.base = Path(os.path.realpath(base))

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

    def models(self, folder: str) -> list[str]:
        """Names relative to models/<folder>, read from disk each time so that a new file is seen at once."""
        top = self.base / "models" / folder
        files = (Path(where) / name for where, _, names in os.walk(top, followlinks=True) for name in names)
        return sorted(file.relative_to(top).as_posix() for file in files if file.suffix.lower() in MODEL_SUFFIXES)

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
