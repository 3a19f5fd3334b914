"""Images to convert, and what came out of them."""

from io import BytesIO
from random import Random
from typing import Any

from PIL import Image, ImageChops, ImageCms, ImageDraw, ImageStat

from handler.schemas import ConvertJpeg, ConvertOutput, ConvertPng, ConvertWebp

PNG = ConvertPng(format="png")


def jpeg(**options: Any) -> ConvertJpeg:
    return ConvertJpeg.model_validate({"format": "jpeg", "options": options})


def webp(**options: Any) -> ConvertWebp:
    return ConvertWebp.model_validate({"format": "webp", "options": options})


ENGINES: list[ConvertOutput] = [jpeg(), jpeg(mozjpeg=True), webp(), webp(smartSubsample=True)]
"""Each format by Pillow and by libvips."""


def encode(picture: Image.Image, name: str = "PNG", **options: Any) -> bytes:
    out = BytesIO()
    picture.save(out, name, **options)
    return out.getvalue()


def decode(image: bytes) -> Image.Image:
    return Image.open(BytesIO(image))


def photo() -> Image.Image:
    """Smooth areas, noise and an edge; always the same."""
    ramp = Image.linear_gradient("L")
    smooth = Image.merge("RGB", (ramp, Image.radial_gradient("L"), ramp.rotate(90)))
    noise = Image.frombytes("L", (64, 64), Random(1).randbytes(64 * 64)).resize((256, 256), Image.Resampling.BICUBIC)
    picture = Image.blend(smooth, noise.convert("RGB"), 0.2)
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


PHOTO = encode(photo())


DRAWING = encode(drawing())


TRANSLUCENT = encode(translucent())


def distance(image: bytes, picture: Image.Image) -> float:
    """The mean difference of a sample, 0 to 255."""
    return sum(ImageStat.Stat(ImageChops.difference(decode(image).convert(picture.mode), picture)).mean)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


EXCHANGED = SRGB.replace(b"rXYZ", b"bXYZ", 1)[::-1].replace(b"bXYZ"[::-1], b"rXYZ"[::-1], 1)[::-1]
"""A profile whose blue is red and whose red is blue."""


def frames() -> list[Image.Image]:
    """A disc that moves and changes its colour on nothing."""
    pictures = [Image.new("RGBA", (48, 32)) for _ in range(3)]
    for index, (picture, colour) in enumerate(zip(pictures, ("red", "lime", "blue"), strict=True)):
        ImageDraw.Draw(picture).ellipse((4 + 12 * index, 6, 14 + 12 * index, 16), fill=colour)
    return pictures


def animation(name: str, **options: Any) -> bytes:
    first, *others = frames()
    return encode(first, name, save_all=True, append_images=others, duration=[40, 120, 250], **options)


ANIMATIONS = {
    "WEBP": animation("WEBP", loop=3, lossless=True),
    "GIF": animation("GIF", loop=2, disposal=2),
    "PNG": animation("PNG", loop=3),
}
"""Each is played three times; a GIF counts the repetitions."""
