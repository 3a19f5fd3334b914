"""Conversion to WebP, by Pillow and by libvips."""

from typing import Any

import pytest

from handler.jobs.images import Picture, convert, identify
from tests.support.pictures import DRAWING, PHOTO, TRANSLUCENT, decode, distance, drawing, photo, translucent, webp


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
    assert decode(fine).getchannel("A").tobytes() == alpha.tobytes()
    assert decode(coarse).getchannel("A").tobytes() != alpha.tobytes()
    assert decode(coarse).convert("RGB").tobytes() == decode(fine).convert("RGB").tobytes()
