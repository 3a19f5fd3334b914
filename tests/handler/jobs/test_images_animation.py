"""Conversion of animations."""

import pytest
from PIL import Image

from handler.jobs.images import Picture, convert, identify
from handler.schemas import ConvertOutput
from tests.support.pictures import ANIMATIONS, PNG, SRGB, animation, decode, encode, frames, jpeg, webp


def test_an_animated_png_has_no_profile() -> None:
    image = convert(animation("WEBP", icc_profile=SRGB), PNG)
    assert "icc_profile" not in decode(image).info


def shown(image: bytes) -> tuple[list[int], int, list[Image.Image]]:
    """How long each frame is shown, how often, and the frames."""
    image_file, durations, pictures = decode(image), [], []
    for index in range(getattr(image_file, "n_frames", 1)):
        image_file.seek(index)
        image_file.load()
        durations.append(round(image_file.info["duration"]))
        pictures.append(image_file.convert("RGBA"))
    return durations, image_file.info["loop"], pictures


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
    source = encode(first, "GIF", save_all=True, append_images=others, duration=[0, 10, 20])
    durations, plays, _ = shown(convert(source, target))
    assert durations == [100, 100, 20]
    assert plays == 1


@pytest.mark.parametrize("source", list(ANIMATIONS))
@pytest.mark.parametrize("target", [jpeg(), jpeg(mozjpeg=True)])
def test_a_jpeg_of_an_animation_is_its_first_frame(source: str, target: ConvertOutput) -> None:
    image = convert(ANIMATIONS[source], target)
    assert identify(image) == Picture("JPEG", "image/jpeg", 48, 32, 1)
    assert decode(image).getpixel((8, 12)) == pytest.approx((255, 0, 0), abs=12)
    assert decode(image).getpixel((44, 28)) == pytest.approx((0, 0, 0), abs=12)


@pytest.mark.parametrize("source", list(ANIMATIONS))
def test_an_animation_is_identified_with_its_frames(source: str) -> None:
    assert identify(ANIMATIONS[source]) == Picture(source, f"image/{source.lower()}", 48, 32, 3)
