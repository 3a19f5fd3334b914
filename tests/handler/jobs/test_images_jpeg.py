"""Conversion to JPEG, by Pillow and by libvips."""

from typing import Any

import pytest

from handler.jobs.images import Picture, convert, identify
from tests.support.pictures import DRAWING, PHOTO, decode, distance, drawing, encode, jpeg, photo

MOZJPEG = {"trellisQuantisation": True, "overshootDeringing": True, "optimizeScans": True, "quantisationTable": 3}


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


def test_every_quality_of_jpeg_works_in_both_engines() -> None:
    for quality in (1, 50, 95, 100):
        for options in ({}, {"progressive": True}, {"trellisQuantisation": True}):
            assert identify(convert(PHOTO, jpeg(quality=quality, **options)))


def test_progressive_writes_a_progressive_frame_with_the_same_pixels() -> None:
    image = convert(PHOTO, jpeg(progressive=True))
    assert segments(image, SOF0) == []
    assert len(segments(image, SOF2)) == 1
    assert len(segments(image, SOS)) > 1
    assert distance(image, decode(convert(PHOTO, jpeg()))) == 0


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
    grey = encode(drawing().convert("L"))
    plain, deringed = (convert(grey, jpeg(quality=40, overshootDeringing=on)) for on in (False, True))
    assert segments(deringed, SOF2) == []
    assert distance(deringed, drawing()) < distance(plain, drawing())


def test_optimize_scans_chooses_other_scans_and_is_progressive() -> None:
    image = convert(PHOTO, jpeg(optimizeScans=True))
    progressive = convert(PHOTO, jpeg(progressive=True))
    assert len(segments(image, SOF2)) == 1
    assert segments(image, SOS) != segments(progressive, SOS)
    assert len(image) < len(progressive)
    assert distance(image, decode(progressive)) == 0


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
