"""Nodes that load, create and edit images. An IMAGE is a tuple of Pillow images of one size."""

# ruff: noqa: RUF012 - a node declares its inputs as class attributes, and may ignore some

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageChops, ImageOps, ImageSequence

from emulator.comfyui import Folders
from emulator.comfyui.nodes.node import Node

Images = Sequence[Image.Image]

MAX_SIZE = 16384
SIZE = {"default": 512, "min": 0, "max": MAX_SIZE, "step": 1}
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class LoadImage(Node):
    function = "load_image"
    required = {"image": (Folders.input_images, {"image_upload": True})}
    outputs = ("IMAGE", "MASK")
    category = "image"
    display_name = "Load Image"
    checked_inputs = frozenset({"image"})

    @classmethod
    def check(cls, folders: Folders, values: Mapping[str, Any]) -> str | None:
        name = values["image"]
        return None if isinstance(name, str) and folders.input_file(name) else f"Invalid image file: {name}"

    @classmethod
    def is_changed(cls, folders: Folders, values: Mapping[str, Any]) -> str | None:
        file = folders.input_file(str(values.get("image")))
        return hashlib.sha256(file.read_bytes()).hexdigest() if file else None

    def load_image(self, image: str) -> tuple[Images, Images]:
        file = self.context.folders.input_file(image)
        if file is None:
            raise FileNotFoundError(f"[Errno 2] No such file or directory: '{image}'")
        with Image.open(file) as opened:
            frames = [ImageOps.exif_transpose(frame) for frame in ImageSequence.Iterator(opened)]
        frames = [frame for frame in frames if frame.size == frames[0].size]
        return tuple(frame.convert("RGB") for frame in frames), tuple(_mask(frame) for frame in frames)


class EmptyImage(Node):
    function = "generate"
    required = {
        "width": ("INT", {"default": 512, "min": 1, "max": MAX_SIZE, "step": 1}),
        "height": ("INT", {"default": 512, "min": 1, "max": MAX_SIZE, "step": 1}),
        "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096}),
        "color": ("INT", {"default": 0, "min": 0, "max": 0xFFFFFF, "step": 1, "display": "color"}),
    }
    outputs = ("IMAGE",)
    category = "image"

    def generate(self, width: int, height: int, batch_size: int = 1, color: int = 0) -> tuple[Images]:
        rgb = (color >> 16 & 0xFF, color >> 8 & 0xFF, color & 0xFF)
        return ((Image.new("RGB", (width, height), rgb),) * batch_size,)


class ImageInvert(Node):
    function = "invert"
    required = {"image": ("IMAGE",)}
    outputs = ("IMAGE",)
    category = "image"
    display_name = "Invert Image"

    def invert(self, image: Images) -> tuple[Images]:
        return (tuple(ImageChops.invert(picture) for picture in image),)


class ImageScale(Node):
    function = "upscale"
    required = {
        "image": ("IMAGE",),
        "upscale_method": (["nearest-exact", "bilinear", "area", "bicubic", "lanczos"],),
        "width": ("INT", SIZE),
        "height": ("INT", SIZE),
        "crop": (["disabled", "center"],),
    }
    outputs = ("IMAGE",)
    category = "image/upscaling"
    display_name = "Upscale Image"

    def upscale(self, image: Images, upscale_method: str, width: int, height: int, crop: str) -> tuple[Images]:
        if width == 0 and height == 0:
            return (image,)
        old = image[0]
        # 0 keeps the aspect ratio
        size = (
            width or max(1, round(old.width * height / old.height)),
            height or max(1, round(old.height * width / old.width)),
        )
        resample = FILTERS[upscale_method]
        if crop == "center":
            return (tuple(ImageOps.fit(picture, size, resample) for picture in image),)
        return (tuple(picture.resize(size, resample) for picture in image),)


class ImageResizePlus(Node):
    """From the pack ComfyUI_essentials."""

    name = "ImageResize+"
    function = "execute"
    required = {
        "image": ("IMAGE",),
        "width": ("INT", SIZE),
        "height": ("INT", SIZE),
        "interpolation": (["nearest", "bilinear", "bicubic", "area", "nearest-exact", "lanczos"],),
        "method": (["stretch", "keep proportion", "fill / crop", "pad"],),
        "condition": (["always", "downscale if bigger", "upscale if smaller", "if bigger area", "if smaller area"],),
        "multiple_of": ("INT", {"default": 0, "min": 0, "max": 512, "step": 1}),
    }
    outputs = ("IMAGE", "INT", "INT")
    output_names = ("IMAGE", "width", "height")
    category = "essentials/image manipulation"
    display_name = "🔧 Image Resize"
    python_module = "custom_nodes.ComfyUI_essentials"

    def execute(
        self,
        image: Images,
        width: int,
        height: int,
        interpolation: str = "nearest",
        method: str = "stretch",
        condition: str = "always",
        multiple_of: int = 0,
    ) -> tuple[Images, int, int]:
        old = image[0].size
        target = _target_size(old, (width, height), method)
        pictures: Images = image
        if _applies(condition, old, target):
            pictures = tuple(_resize(picture, target, method, FILTERS[interpolation]) for picture in image)
        pictures = tuple(_crop_to_multiple(picture, multiple_of) for picture in pictures)
        return pictures, pictures[0].width, pictures[0].height


def _mask(frame: Image.Image) -> Image.Image:
    """The mask of an image, 0 where it is opaque, as in ComfyUI. Without alpha it is small and empty."""
    if "A" not in frame.getbands():
        return Image.new("L", (64, 64), 0)
    return ImageChops.invert(frame.getchannel("A"))


def _target_size(old: tuple[int, int], wanted: tuple[int, int], method: str) -> tuple[int, int]:
    """The size to scale to. A side of 0 follows from the aspect ratio if that is kept; otherwise it stays as it is."""
    if method != "keep proportion":
        return wanted[0] or old[0], wanted[1] or old[1]
    if wanted == (0, 0):
        return old
    ratio = min(side / was for side, was in zip(wanted, old, strict=True) if side)
    return max(1, round(old[0] * ratio)), max(1, round(old[1] * ratio))


def _applies(condition: str, old: tuple[int, int], new: tuple[int, int]) -> bool:
    old_area, new_area = old[0] * old[1], new[0] * new[1]
    return {
        "always": True,
        "downscale if bigger": old[0] > new[0] or old[1] > new[1],
        "upscale if smaller": old[0] < new[0] or old[1] < new[1],
        "if bigger area": old_area > new_area,
        "if smaller area": old_area < new_area,
    }[condition]


def _resize(picture: Image.Image, size: tuple[int, int], method: str, resample: Image.Resampling) -> Image.Image:
    if method == "fill / crop":
        return ImageOps.fit(picture, size, resample)
    if method == "pad":
        return ImageOps.pad(picture, size, resample)
    return picture.resize(size, resample)


def _crop_to_multiple(picture: Image.Image, multiple_of: int) -> Image.Image:
    """Crop evenly so that both sides are multiples."""
    if multiple_of < 2:
        return picture
    width, height = (max(side // multiple_of, 1) * multiple_of for side in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))
