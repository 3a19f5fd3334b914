import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from random import Random
from typing import Any
from zlib import crc32

import pytest
from PIL import Image, ImageChops, ImageCms, ImageDraw, ImageStat, PngImagePlugin

from handler.errors import InputUnavailable, OutputError, TooLarge
from handler.jobs.images import MAX_INPUT_PIXELS, Picture, check_input, convert, extension, identify
from handler.schemas import ConvertJpeg, ConvertOutput, ConvertPng, ConvertWebp

PNG = ConvertPng(format="png")
MOZJPEG = {"trellisQuantisation": True, "overshootDeringing": True, "optimizeScans": True, "quantisationTable": 3}


def jpeg(**options: Any) -> ConvertJpeg:
    return ConvertJpeg.model_validate({"format": "jpeg", "options": options})


def webp(**options: Any) -> ConvertWebp:
    return ConvertWebp.model_validate({"format": "webp", "options": options})


ENGINES: list[ConvertOutput] = [jpeg(), jpeg(mozjpeg=True), webp(), webp(smartSubsample=True)]
"""Each format by Pillow and by libvips."""


def encoded(picture: Image.Image, name: str = "PNG", **options: Any) -> bytes:
    out = BytesIO()
    picture.save(out, name, **options)
    return out.getvalue()


def decoded(image: bytes) -> Image.Image:
    return Image.open(BytesIO(image))


def photo() -> Image.Image:
    """Smooth areas, grain and an edge, the same ones every time."""
    ramp = Image.linear_gradient("L")
    smooth = Image.merge("RGB", (ramp, Image.radial_gradient("L"), ramp.rotate(90)))
    grain = Image.frombytes("L", (64, 64), Random(1).randbytes(64 * 64)).resize((256, 256), Image.Resampling.BICUBIC)
    picture = Image.blend(smooth, grain.convert("RGB"), 0.2)
    ImageDraw.Draw(picture).ellipse((40, 60, 150, 200), fill=(250, 240, 20), outline=(0, 0, 0), width=5)
    return picture


def drawing() -> Image.Image:
    """Hard edges: red and white on black."""
    picture = Image.new("RGB", (96, 96), (0, 0, 0))
    pen = ImageDraw.Draw(picture)
    for x in range(3, 96, 13):
        pen.rectangle((x, 5, x + 3, 45), fill=(255, 0, 0))
        pen.rectangle((x, 51, x + 5, 92), fill=(255, 255, 255))
    return picture


def translucent() -> Image.Image:
    picture = photo().convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").rotate(90))
    return picture


PHOTO = encoded(photo())
DRAWING = encoded(drawing())
TRANSLUCENT = encoded(translucent())


def distance(image: bytes, picture: Image.Image) -> float:
    """The mean difference of a sample, 0 to 255."""
    return sum(ImageStat.Stat(ImageChops.difference(decoded(image).convert(picture.mode), picture)).mean)


def segments(image: bytes, marker: int) -> list[bytes]:
    """The bodies of a JPEG's segments with a marker. Scans are skipped by their next marker."""
    found, at = [], 2
    while image[at + 1] != 0xD9:
        length = int.from_bytes(image[at + 2 : at + 4])
        if image[at + 1] == marker:
            found.append(image[at + 4 : at + 2 + length])
        scan = image[at + 1] == 0xDA
        at += 2 + length
        while scan and not (image[at] == 0xFF and image[at + 1] not in (0x00, *range(0xD0, 0xD8))):
            at += 1
    return found


SOF0, SOF2, DHT, SOS, DQT = 0xC0, 0xC2, 0xC4, 0xDA, 0xDB


def sampling(image: bytes) -> list[int]:
    frame = (segments(image, SOF0) + segments(image, SOF2))[0]
    return [frame[7 + 3 * component] for component in range(frame[5])]


def test_jpeg_defaults_are_baseline_quality_80_and_half_the_chroma() -> None:
    image = convert(PHOTO, jpeg())
    assert identify(image) == Picture("JPEG", "image/jpeg", 256, 256, 1)
    assert len(segments(image, SOF0)) == 1
    assert segments(image, SOF2) == []
    assert sampling(image) == [0x22, 0x11, 0x11]
    assert image == convert(PHOTO, jpeg(quality=80))


@pytest.mark.parametrize("make", [jpeg, webp])
def test_a_lower_quality_is_smaller_and_farther_from_the_picture(make: Callable[..., ConvertOutput]) -> None:
    low, high = convert(PHOTO, make(quality=20)), convert(PHOTO, make(quality=90))
    assert len(low) < len(high)
    assert distance(low, photo()) > distance(high, photo())


def test_every_quality_of_jpeg_works_in_both_engines() -> None:
    for quality in (1, 50, 95, 100):
        for options in ({}, {"progressive": True}, {"trellisQuantisation": True}):
            assert identify(convert(PHOTO, jpeg(quality=quality, **options)))


def test_progressive_writes_a_progressive_frame_with_the_same_pixels() -> None:
    image = convert(PHOTO, jpeg(progressive=True))
    assert segments(image, SOF0) == []
    assert len(segments(image, SOF2)) == 1
    assert len(segments(image, SOS)) > 1
    assert distance(image, decoded(convert(PHOTO, jpeg()))) == 0


@pytest.mark.parametrize("options", [{}, {"trellisQuantisation": True}])
def test_chroma_subsampling_444_keeps_every_sample_of_chroma(options: dict[str, Any]) -> None:
    half, full = convert(PHOTO, jpeg(**options)), convert(PHOTO, jpeg(**options, chromaSubsampling="4:4:4"))
    assert sampling(half) == [0x22, 0x11, 0x11]
    assert sampling(full) == [0x11, 0x11, 0x11]
    assert distance(full, photo()) < distance(half, photo())


def test_without_optimize_coding_the_huffman_tables_are_the_standard_ones() -> None:
    tables = [segments(convert(image, jpeg(optimizeCoding=False)), DHT) for image in (PHOTO, DRAWING)]
    assert tables[0] == tables[1]
    assert sum(map(len, tables[0])) == 416  # those of the JPEG standard, annex K.3
    assert segments(convert(PHOTO, jpeg()), DHT) != segments(convert(DRAWING, jpeg()), DHT)
    assert len(convert(PHOTO, jpeg())) < len(convert(PHOTO, jpeg(optimizeCoding=False)))


def test_without_optimize_coding_the_other_engine_writes_standard_tables_too() -> None:
    image = convert(PHOTO, jpeg(optimizeCoding=False, quantisationTable=3))
    assert segments(image, DHT) == segments(convert(PHOTO, jpeg(optimizeCoding=False)), DHT)


def test_each_quantisation_table_is_another_one() -> None:
    tables = [b"".join(segments(convert(PHOTO, jpeg(quantisationTable=table)), DQT)) for table in range(9)]
    assert len(set(tables)) == 9
    assert tables[0] == b"".join(segments(convert(PHOTO, jpeg()), DQT))


def test_trellis_quantisation_is_smaller_with_the_same_tables() -> None:
    plain, trellis = convert(PHOTO, jpeg()), convert(PHOTO, jpeg(trellisQuantisation=True))
    assert b"".join(segments(trellis, DQT)) == b"".join(segments(plain, DQT))
    assert len(trellis) < len(plain)
    assert distance(trellis, photo()) < 2 * distance(plain, photo())


def test_overshoot_deringing_clears_the_black_beside_hard_white_edges() -> None:
    grey = encoded(drawing().convert("L"))
    plain, deringed = (convert(grey, jpeg(quality=40, overshootDeringing=on)) for on in (False, True))
    assert segments(deringed, SOF2) == []
    assert distance(deringed, drawing()) < distance(plain, drawing())


def test_optimize_scans_chooses_other_scans_and_is_progressive() -> None:
    image = convert(PHOTO, jpeg(optimizeScans=True))
    progressive = convert(PHOTO, jpeg(progressive=True))
    assert len(segments(image, SOF2)) == 1
    assert segments(image, SOS) != segments(progressive, SOS)
    assert len(image) < len(progressive)
    assert distance(image, decoded(progressive)) == 0


def test_mozjpeg_is_its_four_options_together() -> None:
    assert convert(PHOTO, jpeg(mozjpeg=True)) == convert(PHOTO, jpeg(**MOZJPEG))
    assert len(convert(PHOTO, jpeg(mozjpeg=True))) < len(convert(PHOTO, jpeg(progressive=True)))


@pytest.mark.parametrize("name", list(MOZJPEG))
def test_an_option_given_beside_mozjpeg_overrides_it(name: str) -> None:
    off = {name: 0 if name == "quantisationTable" else False}
    expected = jpeg(**{**MOZJPEG, **off}, progressive=True)
    assert convert(DRAWING, jpeg(mozjpeg=True, **off)) == convert(DRAWING, expected)
    assert convert(DRAWING, jpeg(mozjpeg=True, **off)) != convert(DRAWING, jpeg(mozjpeg=True))


def test_mozjpeg_without_its_four_options_is_progressive_all_the_same() -> None:
    nothing = {"trellisQuantisation": False, "overshootDeringing": False, "optimizeScans": False}
    image = convert(PHOTO, jpeg(mozjpeg=True, progressive=False, quantisationTable=0, **nothing))
    assert image == convert(PHOTO, jpeg(progressive=True))


def test_webp_defaults_are_lossy_quality_80_and_effort_4() -> None:
    image = convert(PHOTO, webp())
    assert identify(image) == Picture("WEBP", "image/webp", 256, 256, 1)
    assert image[12:16] == b"VP8 "
    assert image == convert(PHOTO, webp(quality=80, effort=4, alphaQuality=100, preset="default"))


@pytest.mark.parametrize("options", [{}, {"preset": "picture"}])
def test_lossless_keeps_every_pixel_in_both_engines(options: dict[str, Any]) -> None:
    image = convert(DRAWING, webp(lossless=True, **options))
    assert image[12:16] == b"VP8L"
    assert distance(image, drawing()) == 0


def test_near_lossless_is_smaller_than_lossless_and_closer_than_lossy() -> None:
    near = convert(PHOTO, webp(nearLossless=True, quality=20, effort=2))
    assert near[12:16] == b"VP8L"
    assert len(near) < len(convert(PHOTO, webp(lossless=True, quality=20, effort=2)))
    assert 0 < distance(near, photo()) < distance(convert(PHOTO, webp(quality=20)), photo())


def test_a_lower_quality_takes_near_lossless_farther_from_the_picture() -> None:
    low, high = (convert(PHOTO, webp(nearLossless=True, quality=quality, effort=2)) for quality in (10, 70))
    assert distance(low, photo()) > distance(high, photo())


def test_smart_subsample_keeps_colours_at_hard_edges() -> None:
    plain, smart = convert(DRAWING, webp()), convert(DRAWING, webp(smartSubsample=True))
    assert distance(smart, drawing()) < distance(plain, drawing())


def test_each_preset_but_one_encodes_differently() -> None:
    names = ("default", "picture", "photo", "drawing", "icon", "text")
    images = {name: convert(PHOTO, webp(preset=name)) for name in names}
    # libwebp's icon and text differ in the number of segments, which are all alike without noise shaping.
    assert len(set(images.values())) == 5
    assert all(images[name] != images["default"] for name in names[1:])


@pytest.mark.parametrize("options", [{}, {"smartSubsample": True}])
def test_more_effort_makes_it_smaller(options: dict[str, Any]) -> None:
    sizes = [len(convert(PHOTO, webp(effort=effort, **options))) for effort in (0, 6)]
    assert sizes[0] > sizes[1]


@pytest.mark.parametrize("options", [{}, {"smartSubsample": True}])
def test_alpha_quality_coarsens_only_the_alpha_channel(options: dict[str, Any]) -> None:
    fine, coarse = (convert(TRANSLUCENT, webp(alphaQuality=quality, **options)) for quality in (100, 1))
    alpha = translucent().getchannel("A")
    assert decoded(fine).getchannel("A").tobytes() == alpha.tobytes()
    assert decoded(coarse).getchannel("A").tobytes() != alpha.tobytes()
    assert decoded(coarse).convert("RGB").tobytes() == decoded(fine).convert("RGB").tobytes()


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_pngs_of_every_mode_are_converted(mode: str, target: ConvertOutput) -> None:
    picture = photo().quantize(64) if mode == "P" else (translucent() if "A" in mode else photo()).convert(mode)
    expected = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture.convert("RGBA")).convert("RGB")
    found = decoded(convert(encoded(picture), target)).convert("RGBA")
    on_black = Image.alpha_composite(Image.new("RGBA", found.size, "black"), found).convert("RGB")
    assert max(ImageStat.Stat(ImageChops.difference(on_black, expected)).mean) < 12


@pytest.mark.parametrize("target", ENGINES)
def test_a_picture_of_16_bits_is_scaled_and_not_clipped(target: ConvertOutput) -> None:
    grey = Image.linear_gradient("L")
    deep = grey.convert("I").point(lambda value: value * 256).convert("I;16")
    assert decoded(encoded(deep)).mode == "I;16"
    assert distance(convert(encoded(deep), target), grey.convert("RGB")) < 6


@pytest.mark.parametrize("target", ENGINES)
def test_a_palette_with_transparency_is_flattened_in_jpeg_and_kept_in_webp(target: ConvertOutput) -> None:
    picture = Image.new("RGBA", (32, 32), (200, 100, 50, 0))
    ImageDraw.Draw(picture).rectangle((8, 8, 23, 23), fill=(200, 100, 50, 255))
    found = decoded(convert(encoded(picture.quantize(4)), target))
    if target.format == "webp":
        assert found.convert("RGBA").getpixel((1, 1))[3] == 0  # type: ignore[index]
    else:
        assert found.getpixel((1, 1)) == pytest.approx((0, 0, 0), abs=12)
    assert found.convert("RGB").getpixel((16, 16)) == pytest.approx((200, 100, 50), abs=20)


@pytest.mark.parametrize("target", [*ENGINES, PNG])
def test_a_cmyk_jpeg_becomes_rgb(target: ConvertOutput) -> None:
    source = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    found = decoded(convert(source, target))
    assert found.mode == "RGB"
    assert found.getpixel((8, 8)) == pytest.approx((255, 0, 0), abs=6)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
EXCHANGED = SRGB.replace(b"rXYZ", b"bXYZ", 1)[::-1].replace(b"bXYZ"[::-1], b"rXYZ"[::-1], 1)[::-1]
"""A profile whose blue is red and whose red is blue."""


@pytest.mark.parametrize("target", [*ENGINES, PNG])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_embedded_profile_is_applied_and_dropped(mode: str, target: ConvertOutput) -> None:
    source = encoded(Image.new(mode, (32, 32), "red"), "WEBP", lossless=True, icc_profile=EXCHANGED)
    found = decoded(convert(source, target))
    assert "icc_profile" not in found.info
    assert found.convert("RGB").getpixel((16, 16)) == pytest.approx((0, 0, 255), abs=6)


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("profile", [b"broken", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()])
def test_a_profile_that_does_not_fit_is_ignored(profile: bytes, target: ConvertOutput) -> None:
    assert convert(encoded(photo(), icc_profile=profile), target) == convert(PHOTO, target)


def test_an_animated_png_has_no_profile() -> None:
    image = convert(animation("WEBP", icc_profile=SRGB), PNG)
    assert "icc_profile" not in decoded(image).info


@pytest.mark.parametrize("target", [*ENGINES, webp(lossless=True)])
def test_the_prompt_in_a_png_does_not_leave_with_the_picture(target: ConvertOutput) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("prompt", '{"6": {"inputs": {"text": "a secret lighthouse"}}}')
    chunks.add_itxt("workflow", "a secret lighthouse")
    source = encoded(photo(), pnginfo=chunks)
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
    image = convert(encoded(tall, "JPEG", exif=exif, comment=b"a secret lighthouse"), target)
    found = decoded(image)
    assert found.size == (64, 96)
    assert dict(found.getexif()) == {}
    assert b"lighthouse" not in image


def test_a_png_that_shall_be_a_png_is_left_as_it_is() -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("prompt", "kept")
    source = encoded(photo(), pnginfo=chunks)
    assert convert(source, PNG) == source


def test_another_format_becomes_a_png_with_the_same_pixels() -> None:
    image = convert(encoded(translucent(), "WEBP", lossless=True, exact=True), PNG)
    assert identify(image) == Picture("PNG", "image/png", 256, 256, 1)
    assert decoded(image).tobytes() == translucent().tobytes()


@pytest.mark.parametrize("target", [jpeg(quality=30), webp(quality=30)])
def test_an_image_that_has_the_format_already_gets_the_quality(target: ConvertOutput) -> None:
    fine = convert(PHOTO, jpeg(quality=100) if target.format == "jpeg" else webp(quality=100))
    assert len(convert(fine, target)) < len(fine) / 2


def frames() -> list[Image.Image]:
    """A disc that moves and changes its colour on nothing."""
    pictures = [Image.new("RGBA", (48, 32)) for _ in range(3)]
    for index, (picture, colour) in enumerate(zip(pictures, ("red", "lime", "blue"), strict=True)):
        ImageDraw.Draw(picture).ellipse((4 + 12 * index, 6, 14 + 12 * index, 16), fill=colour)
    return pictures


def animation(name: str, **options: Any) -> bytes:
    first, *others = frames()
    return encoded(first, name, save_all=True, append_images=others, duration=[40, 120, 250], **options)


ANIMATIONS = {
    "WEBP": animation("WEBP", loop=3, lossless=True),
    "GIF": animation("GIF", loop=2, disposal=2),
    "PNG": animation("PNG", loop=3),
}
"""Each is played three times; a GIF counts the repetitions."""


def shown(image: bytes) -> tuple[list[int], int, list[Image.Image]]:
    """How long each frame is shown, how often, and the frames."""
    opened, durations, pictures = decoded(image), [], []
    for index in range(getattr(opened, "n_frames", 1)):
        opened.seek(index)
        opened.load()
        durations.append(round(opened.info["duration"]))
        pictures.append(opened.convert("RGBA"))
    return durations, opened.info["loop"], pictures


@pytest.mark.parametrize("source", list(ANIMATIONS))
@pytest.mark.parametrize(
    "target", [webp(lossless=True), webp(lossless=True, preset="drawing"), PNG], ids=["pillow", "libvips", "png"]
)
def test_an_animation_keeps_frames_durations_and_loops(source: str, target: ConvertOutput) -> None:
    image = convert(ANIMATIONS[source], target)
    picture = identify(image)
    assert picture is not None
    assert (picture.width, picture.height, picture.frames) == (48, 32, 3)
    durations, plays, pictures = shown(image)
    assert durations == [40, 120, 250]
    assert plays == 3
    assert [picture.tobytes() for picture in pictures] == [picture.tobytes() for picture in frames()]


@pytest.mark.parametrize("target", [webp(), webp(smartSubsample=True)])
def test_frames_shorter_than_browsers_show_them_last_100_ms(target: ConvertOutput) -> None:
    first, *others = frames()
    source = encoded(first, "GIF", save_all=True, append_images=others, duration=[0, 10, 20])
    durations, plays, _ = shown(convert(source, target))
    assert durations == [100, 100, 20]
    assert plays == 1


@pytest.mark.parametrize("source", list(ANIMATIONS))
@pytest.mark.parametrize("target", [jpeg(), jpeg(mozjpeg=True)])
def test_a_jpeg_of_an_animation_is_its_first_frame(source: str, target: ConvertOutput) -> None:
    image = convert(ANIMATIONS[source], target)
    assert identify(image) == Picture("JPEG", "image/jpeg", 48, 32, 1)
    assert decoded(image).getpixel((8, 12)) == pytest.approx((255, 0, 0), abs=12)
    assert decoded(image).getpixel((44, 28)) == pytest.approx((0, 0, 0), abs=12)


@pytest.mark.parametrize("target", [*ENGINES, PNG])
@pytest.mark.parametrize(
    "image", [b"", b"no image at all", encoded(photo(), "JPEG")[:2000]], ids=["empty", "text", "cut"]
)
def test_what_cannot_be_decoded_is_an_output_error_with_its_cause(image: bytes, target: ConvertOutput) -> None:
    with pytest.raises(OutputError) as caught:
        convert(image, target)
    assert f"converted to {target.format}" in caught.value.message
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("target", ENGINES)
def test_what_is_too_large_for_the_format_is_an_output_error(target: ConvertOutput) -> None:
    with pytest.raises(OutputError):
        convert(encoded(Image.new("1", (70_000, 1))), target)


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


@pytest.mark.parametrize("source", list(ANIMATIONS))
def test_an_animation_is_identified_with_its_frames(source: str) -> None:
    assert identify(ANIMATIONS[source]) == Picture(source, f"image/{source.lower()}", 48, 32, 3)


@pytest.mark.parametrize("image", [b"", b"a text", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", PHOTO[:20]])
def test_what_is_no_image_is_not_identified(image: bytes) -> None:
    assert identify(image) is None


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_whole_image_passes_the_check(name: str) -> None:
    image = encoded(photo().resize((64, 48)), name)
    assert check_input(image) == identify(image) == Picture(name, f"image/{name.lower()}", 64, 48, 1)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_a_truncated_image_is_refused(name: str) -> None:
    image = encoded(photo(), name)
    with pytest.raises(InputUnavailable):
        check_input(image[: len(image) // 2])


def test_what_is_no_image_is_refused_with_the_known_formats() -> None:
    with pytest.raises(InputUnavailable, match="PNG, JPEG, WEBP"):
        check_input(b"<html>404</html>")


def test_a_small_file_with_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    blank = encoded(Image.new("1", (1, 1)))
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
    image = encoded(Image.new("1", (10_000, 9_000)))
    assert check_input(image) == Picture("PNG", "image/png", 10_000, 9_000, 1)
