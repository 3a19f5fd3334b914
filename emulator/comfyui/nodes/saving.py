"""Output nodes: they save files, send previews and frames, and show text."""

# ruff: noqa: RUF012 - a node declares its inputs as class attributes, and may ignore some

import io
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from emulator.comfyui import resolve_inside
from emulator.comfyui.nodes.node import Node

Images = Sequence[Image.Image]
Graph = Mapping[str, Any]

PNG_METADATA = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
PREFIX_TIP = (
    "The prefix for the file to save. This may include formatting information such as %date:yyyy-MM-dd% or "
    "%Empty Latent Image.width% to include values from nodes."
)
TIME_TOKENS = {"%year%": "%Y", "%month%": "%m", "%day%": "%d", "%hour%": "%H", "%minute%": "%M", "%second%": "%S"}
WEBP_METHODS = {"default": 4, "fastest": 0, "slowest": 6}


class SaveImage(Node):
    function = "save_images"
    required = {
        "images": ("IMAGE", {"tooltip": "The images to save."}),
        "filename_prefix": ("STRING", {"default": "ComfyUI", "tooltip": PREFIX_TIP}),
    }
    hidden = PNG_METADATA
    category = "image"
    display_name = "Save Image"
    description = "Saves the input images to your ComfyUI output directory."
    output_node = True

    def save_images(
        self,
        images: Images,
        filename_prefix: str = "ComfyUI",
        prompt: Graph | None = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        return {"ui": {"images": save_pngs(self, images, "output", filename_prefix, 4, prompt, extra_pnginfo)}}


class PreviewImage(Node):
    function = "save_images"
    required = {"images": ("IMAGE",)}
    hidden = PNG_METADATA
    category = "image"
    display_name = "Preview Image"
    description = "Saves the input images to your ComfyUI output directory."
    output_node = True

    def save_images(
        self, images: Images, prompt: Graph | None = None, extra_pnginfo: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        letters = "".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=5))
        prefix = f"ComfyUI_temp_{letters}"
        return {"ui": {"images": save_pngs(self, images, "temp", prefix, 1, prompt, extra_pnginfo)}}


class SaveImageWebsocket(Node):
    function = "save_images"
    required = {"images": ("IMAGE",)}
    category = "api/image"
    output_node = True
    python_module = "custom_nodes.websocket_image_save"

    def save_images(self, images: Images) -> dict[str, Any]:
        for step, picture in enumerate(images):
            buffer = io.BytesIO()
            picture.save(buffer, format="PNG", compress_level=4)
            self.context.progress(step, len(images), ("PNG", buffer.getvalue()))
        return {}


class SaveAnimatedWEBP(Node):
    function = "save_images"
    required = {
        "images": ("IMAGE",),
        "filename_prefix": ("STRING", {"default": "ComfyUI"}),
        "fps": ("FLOAT", {"default": 6.0, "min": 0.01, "max": 1000.0, "step": 0.01}),
        "lossless": ("BOOLEAN", {"default": True}),
        "quality": ("INT", {"default": 80, "min": 0, "max": 100}),
        "method": (list(WEBP_METHODS),),
    }
    hidden = PNG_METADATA
    category = "image/animation"
    output_node = True
    python_module = "comfy_extras.nodes_images"

    def save_images(
        self,
        images: Images,
        fps: float,
        filename_prefix: str,
        lossless: bool,
        quality: int,
        method: str,
        prompt: Graph | None = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        top = self.context.folders.base / "output"
        folder, name, counter, subfolder = save_image_path(top, filename_prefix, images[0].size)
        file = f"{name}_{counter:05}_.webp"
        images[0].save(
            folder / file,
            save_all=True,
            duration=int(1000.0 / fps),
            append_images=list(images[1:]),
            exif=_exif(prompt, extra_pnginfo),
            lossless=lossless,
            quality=quality,
            method=WEBP_METHODS[method],
        )
        saved = {"filename": file, "subfolder": subfolder, "type": "output"}
        return {"ui": {"images": [saved], "animated": [len(images) != 1]}}


class PreviewAny(Node):
    function = "main"
    required = {"source": ("*", {})}
    category = "utils"
    display_name = "Preview Any"
    output_node = True
    python_module = "comfy_extras.nodes_preview_any"

    def main(self, source: Any = None) -> dict[str, Any]:
        return {"ui": {"text": [str(source)]}}


def save_pngs(
    node: Node,
    images: Images,
    file_type: str,
    prefix: str,
    compress_level: int,
    prompt: Graph | None,
    extra_pnginfo: Mapping[str, Any] | None,
) -> list[dict[str, str]]:
    """Save a batch, with the graph as metadata; returns the entries of `ui`."""
    info = PngInfo()
    for key, value in {"prompt": prompt, **(extra_pnginfo or {})}.items():
        if value is not None:
            info.add_text(key, json.dumps(value))
    top = node.context.folders.base / file_type
    folder, name, counter, subfolder = save_image_path(top, prefix, images[0].size)
    saved = []
    for number, picture in enumerate(images):
        file = f"{name.replace('%batch_num%', str(number))}_{counter + number:05}_.png"
        picture.save(folder / file, pnginfo=info, compress_level=compress_level)
        saved.append({"filename": file, "subfolder": subfolder, "type": file_type})
    return saved


def save_image_path(top: Path, prefix: str, size: tuple[int, int]) -> tuple[Path, str, int, str]:
    """Where the next file of a prefix goes: (folder, name, counter, subfolder). Creates the folder.

    The counter is one more than the highest on disk, so it reuses the number of a deleted last file.
    """
    filled = os.path.normpath(_expand_tokens(prefix, size))
    subfolder, name = os.path.split(filled)
    folder = resolve_inside(top, subfolder)
    if folder is None:
        # a plain Exception as in ComfyUI, because clients see its class
        raise Exception(
            "**** ERROR: Saving image outside the output folder is not allowed."
            f"\n full_output_folder: {top / subfolder}\n         output_dir: {top}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    present = [_parse_counter(entry.name, name) for entry in os.scandir(folder)]
    return folder, name, max(present, default=0) + 1, subfolder


def _expand_tokens(prefix: str, size: tuple[int, int]) -> str:
    now = time.localtime()
    tokens = {token: time.strftime(form, now) for token, form in TIME_TOKENS.items()}
    for token, value in {**tokens, "%width%": str(size[0]), "%height%": str(size[1])}.items():
        prefix = prefix.replace(token, value)
    return prefix


def _parse_counter(file: str, name: str) -> int:
    """The number in "name_00012_.png"; 0 for other names."""
    if os.path.normcase(file[: len(name) + 1]) != os.path.normcase(f"{name}_"):
        return 0
    digits = file[len(name) + 1 :].split("_")[0]
    return int(digits) if digits.isdigit() else 0


def _exif(prompt: Graph | None, extra_pnginfo: Mapping[str, Any] | None) -> Image.Exif:
    exif = Image.Exif()
    if prompt is not None:
        exif[0x0110] = f"prompt:{json.dumps(prompt)}"
    for tag, (key, value) in zip(range(0x010F, 0, -1), (extra_pnginfo or {}).items(), strict=False):
        exif[tag] = f"{key}:{json.dumps(value)}"
    return exif
