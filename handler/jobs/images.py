"""The only module that opens images."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, NamedTuple

# Takes 30 ms to import. Each job needs it, for the size of its outputs. Slower imports wait for their first use: Pillow's
# readers take 70 ms (_load_readers), pyvips 40 ms (_load_libvips).
from PIL import Image, ImageSequence, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from handler.errors import InputUnavailable, OutputError, TooLarge
from handler.schemas import ConvertJpeg, ConvertOutput, ConvertPng, JpegOptions, WebpOptions

MAX_INPUT_PIXELS = 178_956_970
"""The limit for all frames of a caller's image together. Pillow, and so ComfyUI, has the same limit for one frame."""

# What Pillow's readers and writers raise for a damaged or unsuitable image (found by fuzzing).
_FORMAT_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, struct.error)
# Pillow raises them for large images, such as a GIF frame larger than its canvas; the warning only if warnings are errors.
_SIZE_ERRORS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_IMAGE_ERRORS = (*_FORMAT_ERRORS, OverflowError, *_SIZE_ERRORS)


@dataclass(frozen=True)
class Picture:
    """What the header of an image contains. A still image has one frame."""

    format: str
    mime_type: str
    width: int
    height: int
    frames: int


def convert(image: bytes, target: ConvertOutput) -> bytes:
    """Convert an image to another format, without its metadata. Raises OutputError.

    WebP and PNG get all frames of an animation, JPEG the first one. A PNG is not converted to PNG, and keeps its metadata.
    """
    try:
        source = _open(image)
        if isinstance(target, ConvertJpeg):
            return _encode_jpeg(source, target.options)
        if isinstance(target, ConvertPng):
            return image if source.format == "PNG" else _encode_png(source)
        return _encode_webp(source, target.options)
    except _IMAGE_ERRORS as exc:
        raise OutputError(
            f"The output cannot be converted to {target.format}: it is damaged, not an image, or too large for the format."
        ) from exc


def extension(target: ConvertOutput) -> str:
    """The suffix of the file name, such as .jpg or .jpeg, as the caller spelled the format."""
    return f".{target.format}"


def identify(image: bytes) -> Picture | None:
    """Read the image's header; None if it is not an image of a known format."""
    try:
        return _describe(_open(image))
    except _IMAGE_ERRORS:
        return None


def check_input(image: bytes) -> Picture:
    """Decode all of a caller's image, to check it. Raises InputUnavailable or TooLarge."""
    try:
        source = _open(image)
        picture = _describe(source)
        # Before the first pixel is decoded, because a few kB can decode to gigabytes.
        if picture.width * picture.height * picture.frames > MAX_INPUT_PIXELS:
            raise TooLarge(
                f"The image has {picture.frames} frame(s) of {picture.width}x{picture.height} pixels; "
                f"{MAX_INPUT_PIXELS:,} pixels in total are allowed."
            )
        for frame in _frames(source):
            frame.load()
    except UnidentifiedImageError as exc:
        raise InputUnavailable(f"This is not an image; the supported formats are {', '.join(_FORMATS)}.") from exc
    except _IMAGE_ERRORS as exc:
        raise InputUnavailable("The image is damaged or incomplete.") from exc
    return picture


_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_ANIMATED = frozenset({"PNG", "WEBP", "GIF", "AVIF"})


def _open(image: bytes) -> ImageFile:
    # Not Image.open: it refuses or warns about large outputs, and tries formats whose readers start programs (EPS).
    for name, reader in _load_readers().items():
        accepts = Image.OPEN[name][1]
        if accepts and accepts(image[:16]) is True:
            return reader(BytesIO(image))
    raise UnidentifiedImageError("unknown format")


@cache
def _load_readers() -> dict[str, type[ImageFile]]:
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
        # Not JpegImagePlugin.jpeg_factory, which looks for a second image (MPO), as many cameras write it.
        JpegImagePlugin.JpegImageFile,
        WebPImagePlugin.WebPImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
        TiffImagePlugin.TiffImageFile,
        AvifImagePlugin.AvifImageFile,
    )
    return dict(zip(_FORMATS, readers, strict=True))


def _describe(source: ImageFile) -> Picture:
    name = str(source.format)
    return Picture(name, Image.MIME[name], source.width, source.height, _frame_count(source))


def _frame_count(source: ImageFile) -> int:
    # The pages of a TIFF are not an animation.
    return getattr(source, "n_frames", 1) if source.format in _ANIMATED else 1


def _frames(source: ImageFile) -> Iterable[Image.Image]:
    """All frames. Each is the same object, at another position."""
    return ImageSequence.Iterator(source) if _frame_count(source) > 1 else [source]


def _encode_jpeg(source: ImageFile, options: JpegOptions) -> bytes:
    picture = _flatten(_to_srgb(source))
    extra = _mozjpeg_options(options)
    # As in sharp, mozjpeg and optimizeScans always make it progressive.
    progressive = options.progressive or options.mozjpeg or extra["optimize_scans"]
    if any(extra.values()):
        extra |= {"Q": options.quality, "interlace": progressive, "optimize_coding": options.optimize_coding}
        extra["subsample_mode"] = "off" if options.chroma_subsampling == "4:4:4" else "on"
        return _save_with_libvips(".jpg", [picture], **extra)
    return _save_with_pillow(
        "JPEG",
        picture,
        quality=options.quality,
        progressive=progressive,
        subsampling=options.chroma_subsampling,
        optimize=options.optimize_coding,
        comment=b"",  # otherwise Pillow copies the source's
    )


def _mozjpeg_options(options: JpegOptions) -> dict[str, Any]:
    """The options that need mozjpeg. As in sharp, `mozjpeg` sets the default of all four."""
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


def _encode_webp(source: ImageFile, options: WebpOptions) -> bytes:
    timing = _read_timing(source) if _frame_count(source) > 1 else None
    if options.near_lossless or options.smart_subsample or options.preset != "default":
        frames = map(_to_rgba, _frames(source)) if timing else [_to_srgb(source)]
        same = options.model_dump(include={"lossless", "near_lossless", "smart_subsample", "preset", "effort"})
        return _save_with_libvips(".webp", frames, timing, Q=options.quality, alpha_q=options.alpha_quality, **same)
    given = options.model_dump(include={"quality", "alpha_quality", "lossless"}) | {"method": options.effort}
    if timing is None:
        return _save_with_pillow("WEBP", _to_srgb(source), **given)
    # Pillow reads one frame after the other from the source, as a list would be hundreds of MB for a video. It does not
    # convert their colours, so the profile is kept. No key frames (kmax), as in sharp.
    given |= {"background": (0, 0, 0, 0), "kmin": 0, "kmax": 0, "icc_profile": source.info.get("icc_profile")}
    return _save_with_pillow("WEBP", source, save_all=True, duration=timing.durations, loop=timing.plays, **given)


def _encode_png(source: ImageFile) -> bytes:
    # Otherwise Pillow copies the profile of the source.
    if _frame_count(source) == 1:
        return _save_with_pillow("PNG", _to_srgb(source), icc_profile=None)
    timing = _read_timing(source)
    first, *others = map(_to_rgba, _frames(source))
    given = {"append_images": others, "duration": timing.durations, "loop": timing.plays, "icc_profile": None}
    return _save_with_pillow("PNG", first, save_all=True, **given)


class _Timing(NamedTuple):
    durations: list[int]
    """In milliseconds."""

    plays: int
    """0 means forever."""


def _read_timing(source: ImageFile) -> _Timing:
    durations = []
    for frame in _frames(source):
        frame.load()  # a WebP has the duration of a frame only with its pixels
        duration = round(frame.info.get("duration", 0))
        # As libvips and browsers do with durations that short, so that both engines agree.
        durations.append(duration if duration > 10 else 100)
    loop = source.info.get("loop")
    if source.format == "GIF":
        # A GIF counts repetitions, WebP and PNG count plays. A GIF without a count plays once.
        return _Timing(durations, 1 if loop is None else loop and loop + 1)
    return _Timing(durations, loop or 0)


def _to_srgb(image: Image.Image) -> Image.Image:
    """The image as sharp passes it to its encoders: RGB or RGBA of 8 bits in sRGB, without the EXIF rotation."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value / 256).convert("L")  # Pillow clips 16 bits to 8
    mode = "RGBA" if image.has_transparency_data else "RGB"
    if profile:
        image = _apply_profile(image if image.mode in {"L", "CMYK"} else image.convert(mode), profile, mode)
    return image if image.mode == mode else image.convert(mode)


def _apply_profile(image: Image.Image, profile: bytes, mode: str) -> Image.Image:
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError):
        # Ignore a profile that is invalid or for another mode, as sharp does.
        return image


def _to_rgba(frame: Image.Image) -> Image.Image:
    # Frames without transparency as well, because all frames of an animation must have the same mode.
    return _to_srgb(frame).convert("RGBA")


def _flatten(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    black = Image.new("RGB", picture.size)
    black.paste(picture, mask=picture.getchannel("A"))
    return black


def _save_with_pillow(name: str, picture: Image.Image, **options: Any) -> bytes:
    out = BytesIO()
    picture.save(out, name, **options)
    return out.getvalue()


def _save_with_libvips(
    suffix: str, frames: Iterable[Image.Image], timing: _Timing | None = None, **options: Any
) -> bytes:
    """Encode what Pillow has decoded. libvips takes the frames of an animation one below the other."""
    vips = _load_libvips()
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
def _load_libvips() -> Any:
    import pyvips

    # The encoders run in the calling thread; more threads would only copy pixels.
    pyvips.concurrency_set(1)
    # No operation is repeated, and the cache would keep pixels in memory.
    pyvips.cache_set_max(0)
    return pyvips
