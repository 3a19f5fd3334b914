"""The only module that opens images."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, NamedTuple

# 30 ms of the import; every job needs it, to tell the size of its outputs. What costs more waits for its first use:
# Pillow's readers 70 ms (_readers), pyvips 40 ms (_libvips).
from PIL import Image, ImageSequence, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from handler.errors import InputUnavailable, OutputError, TooLarge
from handler.schemas.conversion import ConvertJpeg, ConvertOutput, ConvertPng, JpegOptions, WebpOptions

MAX_INPUT_PIXELS = 178_956_970
"""Of all frames of a caller's image together. Where Pillow, and so ComfyUI, refuses to open a still one."""

# What Pillow's readers and writers raise for an image that is damaged, or not fit for the format (found by fuzzing).
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, struct.error)
# A GIF's frame larger than its canvas; the warning, for one half as large, is raised where warnings are errors.
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_BROKEN = (*_DAMAGE, OverflowError, *_BOMB)


@dataclass(frozen=True)
class Picture:
    """What the header of an image says. A still one has one frame."""

    format: str
    mime_type: str
    width: int
    height: int
    frames: int


def convert(image: bytes, target: ConvertOutput) -> bytes:
    """The image in another format, without its metadata. Raises OutputError.

    All frames of an animation go into WebP and PNG, the first into JPEG. A PNG that shall be a PNG is given back as it
    is, with its metadata.
    """
    try:
        opened = _opened(image)
        if isinstance(target, ConvertJpeg):
            return _jpeg(opened, target.options)
        if isinstance(target, ConvertPng):
            return image if opened.format == "PNG" else _png(opened)
        return _webp(opened, target.options)
    except _BROKEN as exc:
        raise OutputError(
            f"The output cannot be converted to {target.format}: it is damaged, no image, or too large for the format."
        ) from exc


def extension(target: ConvertOutput) -> str:
    """The end of the file name, spelled as the caller spelled the format."""
    return f".{target.format}"


def identify(image: bytes) -> Picture | None:
    """What the image's header says, or None when it is no image that we know."""
    try:
        return _picture(_opened(image))
    except _BROKEN:
        return None


def check_input(image: bytes) -> Picture:
    """What a caller's image is, once all of it has been decoded. Raises InputUnavailable or TooLarge."""
    try:
        opened = _opened(image)
        picture = _picture(opened)
        # Before the first pixel is decoded: a few kB can say that they are gigabytes.
        if picture.width * picture.height * picture.frames > MAX_INPUT_PIXELS:
            raise TooLarge(
                f"The image has {picture.frames} frame(s) of {picture.width}x{picture.height} pixels; "
                f"{MAX_INPUT_PIXELS:,} pixels in total are allowed."
            )
        for frame in _frames(opened):
            frame.load()
    except UnidentifiedImageError as exc:
        raise InputUnavailable(f"This is no image; {', '.join(_FORMATS)} are known.") from exc
    except _BROKEN as exc:
        raise InputUnavailable("The image is damaged or incomplete.") from exc
    return picture


_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_ANIMATED = frozenset({"PNG", "WEBP", "GIF", "AVIF"})


def _opened(image: bytes) -> ImageFile:
    # Not Image.open: it refuses a large output that ComfyUI has just written, warns about one half as large, and tries
    # formats whose readers start programs (EPS).
    for name, reader in _readers().items():
        accepts = Image.OPEN[name][1]
        if accepts and accepts(image[:16]) is True:
            return reader(BytesIO(image))
    raise UnidentifiedImageError("no known format")


@cache
def _readers() -> dict[str, type[ImageFile]]:
    from PIL import (
        AvifImagePlugin,
        BmpImagePlugin,
        GifImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    readers: tuple[type[ImageFile], ...] = (
        PngImagePlugin.PngImageFile,
        # Without Pillow's own look for a second picture inside (MPO), as many cameras write them.
        JpegImagePlugin.JpegImageFile,
        WebPImagePlugin.WebPImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
        TiffImagePlugin.TiffImageFile,
        AvifImagePlugin.AvifImageFile,
    )
    return dict(zip(_FORMATS, readers, strict=True))


def _picture(opened: ImageFile) -> Picture:
    name = str(opened.format)
    return Picture(name, Image.MIME[name], opened.width, opened.height, _frame_count(opened))


def _frame_count(opened: ImageFile) -> int:
    # The pages of a TIFF are no animation.
    return getattr(opened, "n_frames", 1) if opened.format in _ANIMATED else 1


def _frames(opened: ImageFile) -> Iterable[Image.Image]:
    """Each frame is the same object, at another position."""
    return ImageSequence.Iterator(opened) if _frame_count(opened) > 1 else [opened]


def _jpeg(opened: ImageFile, options: JpegOptions) -> bytes:
    picture = _flat(_plain(opened))
    extra = _mozjpeg(options)
    # As in sharp, mozjpeg and optimizeScans make it progressive whatever else is said.
    progressive = options.progressive or options.mozjpeg or extra["optimize_scans"]
    if any(extra.values()):
        extra |= {"Q": options.quality, "interlace": progressive, "optimize_coding": options.optimize_coding}
        extra["subsample_mode"] = "off" if options.chroma_subsampling == "4:4:4" else "on"
        return _by_libvips(".jpg", [picture], **extra)
    return _by_pillow(
        "JPEG",
        picture,
        quality=options.quality,
        progressive=progressive,
        subsampling=options.chroma_subsampling,
        optimize=options.optimize_coding,
        comment=b"",  # Pillow copies the source's, unless told another
    )


def _mozjpeg(options: JpegOptions) -> dict[str, Any]:
    """What only mozjpeg can do. As in sharp, `mozjpeg` sets all four, and one that is given overrides that."""
    names = {
        "trellis_quant": ("trellis_quantisation", True),
        "overshoot_deringing": ("overshoot_deringing", True),
        "optimize_scans": ("optimize_scans", True),
        "quant_table": ("quantisation_table", 3),
    }
    return {
        name: preset if options.mozjpeg and field not in options.model_fields_set else getattr(options, field)
        for name, (field, preset) in names.items()
    }


def _webp(opened: ImageFile, options: WebpOptions) -> bytes:
    timing = _timing(opened) if _frame_count(opened) > 1 else None
    if options.near_lossless or options.smart_subsample or options.preset != "default":
        frames = map(_with_alpha, _frames(opened)) if timing else [_plain(opened)]
        same = options.model_dump(include={"lossless", "near_lossless", "smart_subsample", "preset", "effort"})
        return _by_libvips(".webp", frames, timing, Q=options.quality, alpha_q=options.alpha_quality, **same)
    given = options.model_dump(include={"quality", "alpha_quality", "lossless"}) | {"method": options.effort}
    if timing is None:
        return _by_pillow("WEBP", _plain(opened), **given)
    # Pillow takes frame after frame from the source itself: a list of them would be hundreds of MB for a video. It does
    # not convert their colours, so the profile goes along. Without key frames (kmax), as sharp.
    given |= {"background": (0, 0, 0, 0), "kmin": 0, "kmax": 0, "icc_profile": opened.info.get("icc_profile")}
    return _by_pillow("WEBP", opened, save_all=True, duration=timing.durations, loop=timing.plays, **given)


def _png(opened: ImageFile) -> bytes:
    # Pillow copies the profile of the source, unless told another.
    if _frame_count(opened) == 1:
        return _by_pillow("PNG", _plain(opened), icc_profile=None)
    timing = _timing(opened)
    first, *others = map(_with_alpha, _frames(opened))
    given = {"append_images": others, "duration": timing.durations, "loop": timing.plays, "icc_profile": None}
    return _by_pillow("PNG", first, save_all=True, **given)


class _Timing(NamedTuple):
    durations: list[int]
    """In milliseconds."""

    plays: int
    """0 means for ever."""


def _timing(opened: ImageFile) -> _Timing:
    durations = []
    for frame in _frames(opened):
        frame.load()  # a WebP tells how long a frame is shown only with its pixels
        duration = round(frame.info.get("duration", 0))
        # As libvips and browsers do: nobody means frames that short, and the two engines agree.
        durations.append(duration if duration > 10 else 100)
    loop = opened.info.get("loop")
    if opened.format == "GIF":
        # A GIF counts repetitions where WebP and PNG count plays, and without a count it plays once.
        return _Timing(durations, 1 if loop is None else loop and loop + 1)
    return _Timing(durations, loop or 0)


def _plain(image: Image.Image) -> Image.Image:
    """The pixels as sharp hands them to its encoders: RGB or RGBA of 8 bits in sRGB, not turned as the EXIF says."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value / 256).convert("L")  # Pillow would clip 16 bits to 8
    mode = "RGBA" if image.has_transparency_data else "RGB"
    if profile:
        image = _in_srgb(image if image.mode in {"L", "CMYK"} else image.convert(mode), profile, mode)
    return image if image.mode == mode else image.convert(mode)


def _in_srgb(image: Image.Image, profile: bytes, mode: str) -> Image.Image:
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError):
        # As sharp does with a profile that is broken or made for other pixels.
        return image


def _with_alpha(frame: Image.Image) -> Image.Image:
    # Also where this frame needs none: all frames of an animation must be alike.
    return _plain(frame).convert("RGBA")


def _flat(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    black = Image.new("RGB", picture.size)
    black.paste(picture, mask=picture.getchannel("A"))
    return black


def _by_pillow(name: str, picture: Image.Image, **options: Any) -> bytes:
    out = BytesIO()
    picture.save(out, name, **options)
    return out.getvalue()


def _by_libvips(suffix: str, frames: Iterable[Image.Image], timing: _Timing | None = None, **options: Any) -> bytes:
    """Pillow has decoded, libvips encodes. Frames stand one below the other, which is libvips' way of an animation."""
    vips = _libvips()
    pixels = bytearray()
    for frame in frames:
        pixels += frame.tobytes()
    bands, height = len(frame.getbands()), len(pixels) // len(frame.getbands()) // frame.width
    try:
        picture = vips.Image.new_from_memory(pixels, frame.width, height, bands, "uchar").copy(interpretation="srgb")
        if timing:
            picture.set_type(vips.GValue.gint_type, "page-height", frame.height)
            picture.set_type(vips.GValue.array_int_type, "delay", timing.durations)
            picture.set_type(vips.GValue.gint_type, "loop", timing.plays)
        return bytes(picture.write_to_buffer(suffix, keep="none", **options))
    except vips.Error as exc:
        raise OSError("libvips cannot encode this") from exc


@cache
def _libvips() -> Any:
    import pyvips

    # The encoders run in the calling thread; more threads would only copy pixels to them.
    pyvips.concurrency_set(1)
    # Nothing is asked twice, and what the cache holds keeps its pixels in memory.
    pyvips.cache_set_max(0)
    return pyvips
