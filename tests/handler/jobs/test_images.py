"""Conversion of images between formats, and the check of callers' images."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from zlib import crc32

import pytest
from PIL import Image, ImageChops, ImageCms, ImageDraw, ImageStat, PngImagePlugin

from handler.errors import InputUnavailable, OutputError, TooLarge
from handler.jobs.images import MAX_INPUT_PIXELS, Picture, check_input, convert, extension, identify
from handler.schemas import ConvertJpeg, ConvertOutput
from tests.support.pictures import (
    ANIMATIONS,
    DRAWING,
    ENGINES,
    EXCHANGED,
    PHOTO,
    PNG,
    decode,
    distance,
    encode,
    jpeg,
    photo,
    translucent,
    webp,
)


@pytest.mark.parametrize("make", [jpeg, webp])
def test_a_lower_quality_is_smaller_and_farther_from_the_picture(make: Callable[..., ConvertOutput]) -> None:
    low, high = convert(PHOTO, make(quality=20)), convert(PHOTO, make(quality=90))
    assert len(low) < len(high)
    assert distance(low, photo()) > distance(high, photo())


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_pngs_of_every_mode_are_converted(mode: str, target: ConvertOutput) -> None:
    picture = photo().quantize(64) if mode == "P" else (translucent() if "A" in mode else photo()).convert(mode)
    expected = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture.convert("RGBA")).convert("RGB")
    found = decode(convert(encode(picture), target)).convert("RGBA")
    on_black = Image.alpha_composite(Image.new("RGBA", found.size, "black"), found).convert("RGB")
    assert max(ImageStat.Stat(ImageChops.difference(on_black, expected)).mean) < 12


@pytest.mark.parametrize("target", ENGINES)
def test_a_picture_of_16_bits_is_scaled_and_not_clipped(target: ConvertOutput) -> None:
    grey = Image.linear_gradient("L")
    deep = grey.convert("I").point(lambda value: value * 256).convert("I;16")
    assert decode(encode(deep)).mode == "I;16"
    assert distance(convert(encode(deep), target), grey.convert("RGB")) < 6


@pytest.mark.parametrize("target", ENGINES)
def test_a_palette_with_transparency_is_flattened_in_jpeg_and_kept_in_webp(target: ConvertOutput) -> None:
    picture = Image.new("RGBA", (32, 32), (200, 100, 50, 0))
    ImageDraw.Draw(picture).rectangle((8, 8, 23, 23), fill=(200, 100, 50, 255))
    found = decode(convert(encode(picture.quantize(4)), target))
    if target.format == "webp":
        assert found.convert("RGBA").getpixel((1, 1))[3] == 0  # type: ignore[index]
    else:
        assert found.getpixel((1, 1)) == pytest.approx((0, 0, 0), abs=12)
    assert found.convert("RGB").getpixel((16, 16)) == pytest.approx((200, 100, 50), abs=20)


@pytest.mark.parametrize("target", [*ENGINES, PNG])
def test_a_cmyk_jpeg_becomes_rgb(target: ConvertOutput) -> None:
    source = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    found = decode(convert(source, target))
    assert found.mode == "RGB"
    assert found.getpixel((8, 8)) == pytest.approx((255, 0, 0), abs=6)


@pytest.mark.parametrize("target", [*ENGINES, PNG])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_embedded_profile_is_applied_and_dropped(mode: str, target: ConvertOutput) -> None:
    source = encode(Image.new(mode, (32, 32), "red"), "WEBP", lossless=True, icc_profile=EXCHANGED)
    found = decode(convert(source, target))
    assert "icc_profile" not in found.info
    assert found.convert("RGB").getpixel((16, 16)) == pytest.approx((0, 0, 255), abs=6)


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("profile", [b"broken", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()])
def test_a_profile_that_does_not_fit_is_ignored(profile: bytes, target: ConvertOutput) -> None:
    assert convert(encode(photo(), icc_profile=profile), target) == convert(PHOTO, target)


@pytest.mark.parametrize("target", [*ENGINES, webp(lossless=True)])
def test_the_prompt_in_a_png_does_not_leave_with_the_picture(target: ConvertOutput) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("prompt", '{"6": {"inputs": {"text": "a secret lighthouse"}}}')
    chunks.add_itxt("workflow", "a secret lighthouse")
    source = encode(photo(), pnginfo=chunks)
    assert b"lighthouse" in source
    image = convert(source, target)
    assert b"lighthouse" not in image
    assert image == convert(PHOTO, target)


@pytest.mark.parametrize("target", [*ENGINES, PNG])
def test_orientation_comments_and_exif_are_dropped_and_the_pixels_not_turned(target: ConvertOutput) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a secret lighthouse"
    tall = photo().resize((64, 96))
    image = convert(encode(tall, "JPEG", exif=exif, comment=b"a secret lighthouse"), target)
    found = decode(image)
    assert found.size == (64, 96)
    assert dict(found.getexif()) == {}
    assert b"lighthouse" not in image


def test_a_png_is_not_converted_to_png() -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("prompt", "kept")
    source = encode(photo(), pnginfo=chunks)
    assert convert(source, PNG) == source


def test_another_format_becomes_a_png_with_the_same_pixels() -> None:
    image = convert(encode(translucent(), "WEBP", lossless=True, exact=True), PNG)
    assert identify(image) == Picture("PNG", "image/png", 256, 256, 1)
    assert decode(image).tobytes() == translucent().tobytes()


@pytest.mark.parametrize("target", [jpeg(quality=30), webp(quality=30)])
def test_an_image_that_has_the_format_already_gets_the_quality(target: ConvertOutput) -> None:
    fine = convert(PHOTO, jpeg(quality=100) if target.format == "jpeg" else webp(quality=100))
    assert len(convert(fine, target)) < len(fine) / 2


@pytest.mark.parametrize("target", [*ENGINES, PNG])
@pytest.mark.parametrize(
    "image", [b"", b"no image at all", encode(photo(), "JPEG")[:2000]], ids=["empty", "text", "cut"]
)
def test_what_cannot_be_decoded_is_an_output_error_with_its_cause(image: bytes, target: ConvertOutput) -> None:
    with pytest.raises(OutputError) as caught:
        convert(image, target)
    assert f"converted to {target.format}" in caught.value.message
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("target", ENGINES)
def test_what_is_too_large_for_the_format_is_an_output_error(target: ConvertOutput) -> None:
    with pytest.raises(OutputError):
        convert(encode(Image.new("1", (70_000, 1))), target)


def test_the_file_name_ends_as_the_caller_spelled_the_format() -> None:
    targets: list[ConvertOutput] = [jpeg(), ConvertJpeg(format="jpg"), webp(), PNG]
    assert [extension(target) for target in targets] == [".jpeg", ".jpg", ".webp", ".png"]


def test_importing_the_module_does_not_load_what_most_jobs_never_need() -> None:
    code = "import sys, handler.jobs.images; print({'pyvips', 'PIL.PngImagePlugin', 'PIL.ImageCms'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize("target", ENGINES)
def test_many_threads_convert_at_once_to_the_same_bytes(target: ConvertOutput) -> None:
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda _: convert(DRAWING, target), range(16)))
    assert set(images) == {convert(DRAWING, target)}


@pytest.mark.parametrize("image", [b"", b"a text", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", PHOTO[:20]])
def test_what_is_not_an_image_is_not_identified(image: bytes) -> None:
    assert identify(image) is None


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_whole_image_passes_the_check(name: str) -> None:
    image = encode(photo().resize((64, 48)), name)
    assert check_input(image) == identify(image) == Picture(name, f"image/{name.lower()}", 64, 48, 1)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_a_truncated_image_is_refused(name: str) -> None:
    image = encode(photo(), name)
    with pytest.raises(InputUnavailable):
        check_input(image[: len(image) // 2])


def test_what_is_not_an_image_is_refused_with_the_supported_formats() -> None:
    with pytest.raises(InputUnavailable, match="PNG, JPEG, WEBP"):
        check_input(b"<html>404</html>")


def test_a_small_file_with_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    blank = encode(Image.new("1", (1, 1)))
    header = b"IHDR" + (100_000).to_bytes(4) + (100_000).to_bytes(4)
    bomb = blank.replace(blank[12:24], header)
    bomb = bomb[:29] + crc32(bomb[12:29]).to_bytes(4) + bomb[33:]
    assert identify(bomb) == Picture("PNG", "image/png", 100_000, 100_000, 1)
    with pytest.raises(TooLarge, match="100000x100000"):
        check_input(bomb)


def test_the_pixels_of_all_frames_count() -> None:
    side = 10_000
    assert side**2 < MAX_INPUT_PIXELS < 3 * side**2
    gif = ANIMATIONS["GIF"]
    with pytest.raises(TooLarge, match="3 frame"):
        check_input(gif[:6] + 2 * side.to_bytes(2, "little") + gif[10:])


def test_an_image_over_the_limit_at_which_pillow_warns_is_fine() -> None:
    image = encode(Image.new("1", (10_000, 9_000)))
    assert check_input(image) == Picture("PNG", "image/png", 10_000, 9_000, 1)
