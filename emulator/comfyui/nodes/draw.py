"""Draws the images: a landscape that depends on the seed, with the prompt as a caption."""

import bisect
import dataclasses
import functools
import hashlib
import math
import random
import unicodedata

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

Color = tuple[int, int, int]
Size = tuple[int, int]

# one row per time of day: zenith, middle of the sky, horizon, nearest hill
PALETTES: tuple[tuple[Color, Color, Color, Color], ...] = (
    ((27, 38, 79), (214, 93, 110), (255, 196, 128), (22, 20, 46)),
    ((58, 124, 189), (163, 210, 226), (253, 240, 213), (18, 53, 61)),
    ((76, 58, 128), (226, 125, 148), (255, 222, 173), (40, 24, 62)),
    ((10, 17, 45), (38, 70, 120), (126, 178, 190), (5, 13, 30)),
    ((24, 90, 98), (120, 190, 160), (250, 235, 180), (10, 45, 48)),
    ((120, 52, 66), (232, 118, 72), (255, 214, 130), (48, 18, 32)),
)
HILLS = 5
# the noise makes the files about as large as those of a real model
NOISE_LEVELS = 3
NOISE_TILE = 256
# masks are drawn this much larger and scaled down, for smooth edges
OVERSAMPLING = 2
# larger images are drawn at this size and scaled up
MAX_DRAWN = 1536
BOX, INK, FAINT_INK = (10, 12, 22), (255, 255, 255), (196, 202, 214)
# the caption is cut here; the whole text is in the file's metadata
MAX_TEXT = 600
REPLACEMENTS = str.maketrans(
    {
        "ß": "ss",
        "æ": "ae",
        "ø": "o",
        "\u2013": "-",
        "\u2014": "-",
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
    }
)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The inputs of a sampler."""

    prompt: str
    negative: str
    seed: int
    steps: int
    settings: str


def draw_picture(
    sampling: Sampling, size: Size, index: int = 0, base: Image.Image | None = None, denoise: float = 1.0
) -> Image.Image:
    """An image that is always the same for the same sampling, size, index and base."""
    digest = hashlib.sha256(repr((sampling, index)).encode(errors="replace")).digest()
    drawn = draw_scene(random.Random(digest), size)
    if base is not None:
        drawn = Image.blend(base.convert("RGB").resize(size), drawn, min(max(denoise, 0.0), 1.0) ** 1.5)
    note = f"stand-in · seed {sampling.seed} · {sampling.steps} steps · {size[0]} x {size[1]}"
    draw_caption(drawn, sampling.prompt, note if index == 0 else f"{note} · no. {index + 1}")
    return drawn


def draw_scene(rng: random.Random, size: Size) -> Image.Image:
    """Sky, sun, hills and a little noise."""
    shrink = min(1.0, MAX_DRAWN / max(size))
    drawn = (max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink)))
    zenith, middle, horizon, near = rng.choice(PALETTES)
    image = vertical_gradient(drawn, zenith, middle, horizon)
    if sum(zenith) < 150:
        draw_stars(image, rng)
    draw_sun(image, rng, horizon)
    draw_clouds(image, rng, horizon)
    draw_hills(image, rng, mix(middle, horizon, 0.3), near)
    image = ImageChops.add(image, noise_layer(rng, drawn), 1, -NOISE_LEVELS // 2)
    return image if drawn == size else image.resize(size, Image.Resampling.BICUBIC)


def vertical_gradient(size: Size, top: Color, middle: Color, bottom: Color) -> Image.Image:
    """A gradient of three colors from top to bottom."""
    column = Image.linear_gradient("L").resize((1, size[1]), Image.Resampling.BILINEAR)
    return ImageOps.colorize(column, top, bottom, middle, midpoint=110).resize(size, Image.Resampling.NEAREST)


def draw_stars(image: Image.Image, rng: random.Random) -> None:
    canvas = ImageDraw.Draw(image)
    width, height = image.size
    for _ in range(90):
        x, y = rng.uniform(0, width), height * 0.42 * rng.random() ** 1.7
        radius, light = width / 1024 * rng.uniform(0.4, 1.4), rng.randrange(120, 255)
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(light, light, min(255, light + 20)))


def draw_sun(image: Image.Image, rng: random.Random, light: Color) -> None:
    """A disc with a glow around it."""
    side = min(image.size)
    center = (image.width * rng.uniform(0.2, 0.8), image.height * rng.uniform(0.2, 0.42))
    # the gradient is 181 in the middle of an edge, where the glow must end
    glow = Image.radial_gradient("L").point(lambda value: int((max(0, 181 - value) / 181) ** 1.8 * 200))
    paste_centered(image, light, glow.resize((round(side * 1.5),) * 2, Image.Resampling.BILINEAR), center)
    diameter = max(2, round(side * rng.uniform(0.1, 0.17)))
    disc = Image.new("L", (diameter * 4, diameter * 4))
    ImageDraw.Draw(disc).ellipse((1, 1, diameter * 4 - 2, diameter * 4 - 2), fill=255)
    paste_centered(image, mix(light, (255, 255, 255), 0.65), disc.reduce(4), center)


def draw_clouds(image: Image.Image, rng: random.Random, light: Color) -> None:
    """Long soft stripes, drawn very small and scaled up."""
    small = Image.new("L", (64, 64))
    canvas = ImageDraw.Draw(small)
    for _ in range(rng.randrange(4, 9)):
        x, y = rng.uniform(-8, 64), rng.uniform(6, 34)
        canvas.ellipse((x, y, x + rng.uniform(14, 34), y + rng.uniform(1, 2.6)), fill=rng.randrange(50, 130))
    mask = small.filter(ImageFilter.GaussianBlur(1.1)).resize(image.size, Image.Resampling.BICUBIC)
    image.paste(mix(light, (255, 255, 255), 0.4), (0, 0), mask)


def draw_hills(image: Image.Image, rng: random.Random, far: Color, near: Color) -> None:
    """Ridges from far to near; far ones are paler, and each has mist at its foot."""
    width, height = image.size
    for layer in range(HILLS):
        nearness = (layer + 1) / HILLS
        level = height * (0.46 + 0.4 * nearness**1.25)
        ridge = hill_outline(rng, width, level, height * (0.17 - 0.09 * nearness), rough=1.0 - 0.5 * nearness)
        tall = height * (0.014 + 0.03 * (layer - HILLS + 2)) if layer >= HILLS - 2 else 0
        top = max(0, math.floor(min(y for _, y in ridge) - 1.2 * tall))
        if top >= height:
            continue
        body = mix(far, near, 0.1 + 0.9 * nearness**1.1)
        mist = mix(body, far, 0.42 * (1 - nearness) + 0.1)
        band = vertical_gradient((width, height - top), body, mix(body, mist, 0.5), mist)
        mask = Image.new("L", (width * OVERSAMPLING, (height - top) * OVERSAMPLING))
        points = [(x * OVERSAMPLING, (y - top) * OVERSAMPLING) for x, y in ridge]
        canvas = ImageDraw.Draw(mask)
        canvas.polygon([*points, (mask.width, mask.height), (0, mask.height)], fill=255)
        if tall:
            draw_trees(canvas, rng, points, tall * OVERSAMPLING)
        image.paste(band, (0, top), mask.reduce(OVERSAMPLING))


def hill_outline(rng: random.Random, width: int, level: float, swing: float, rough: float) -> list[tuple[float, float]]:
    """The upper edge of a hill: a sum of waves, each finer and flatter than the last."""
    waves = [(rng.uniform(0.6, 1.6) * 2**octave, rng.uniform(0, math.tau)) for octave in range(6)]
    steps = 160
    points = []
    for step in range(steps + 1):
        at = step / steps
        lift = sum(
            math.sin(math.tau * pitch * at + phase) * (0.42 + 0.14 * rough) ** octave
            for octave, (pitch, phase) in enumerate(waves)
        )
        points.append((at * width, level - lift * swing * 0.55))
    return points


def draw_trees(canvas: ImageDraw.ImageDraw, rng: random.Random, ridge: list[tuple[float, float]], tall: float) -> None:
    """Firs in groups along a ridge."""
    groups = [(rng.random(), rng.uniform(0.03, 0.09)) for _ in range(5)]
    for x, y in ridge:
        at = x / ridge[-1][0]
        if not any(abs(at - center) < reach for center, reach in groups) or rng.random() < 0.5:
            continue
        x += rng.uniform(-0.3, 0.3) * tall
        high = tall * rng.uniform(0.55, 1.15)
        for tier in range(3):
            base, half = y + tall * 0.1 - high * tier * 0.26, high * (0.22 - 0.05 * tier)
            canvas.polygon([(x - half, base), (x, base - high * 0.48), (x + half, base)], fill=255)


def noise_layer(rng: random.Random, size: Size) -> Image.Image:
    """A repeated tile of noise with a few levels."""
    noise = Image.frombytes("L", (NOISE_TILE, NOISE_TILE), rng.randbytes(NOISE_TILE**2))
    tile = noise.point(lambda value: value * NOISE_LEVELS // 256)
    sheet = Image.new("L", size)
    for left in range(0, size[0], NOISE_TILE):
        for top in range(0, size[1], NOISE_TILE):
            sheet.paste(tile, (left, top))
    return Image.merge("RGB", (sheet, sheet, sheet))


def draw_caption(image: Image.Image, text: str, note: str) -> None:
    """Write the text into a dark box at the bottom, and below it the note in a small font."""
    side = min(image.size)
    large, small = font(max(11, min(40, side // 24))), font(max(9, min(22, side // 44)))
    margin = max(6, side // 32)
    inner = image.width - 4 * margin
    if inner < 40 or image.height < 60:
        return
    line_height, note_height = round(large.size * 1.3), round(small.size * 1.45)
    lines = wrap_text(text, large, inner, max(1, (image.height // 2 - note_height) // line_height))
    box_height = len(lines) * line_height + note_height + 2 * margin
    top = image.height - margin - box_height
    box = (margin, top, image.width - margin, image.height - margin)
    image.paste(BOX, box[:2], rounded_mask((box[2] - box[0], box_height), margin, 178))
    canvas = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        canvas.text((2 * margin, top + margin * 0.8 + number * line_height), line, font=large, fill=INK)
    note_top = image.height - 1.8 * margin - note_height
    canvas.text((2 * margin, note_top), fit_line(note, small, inner), font=small, fill=FAINT_INK)


def wrap_text(text: str, face: ImageFont.FreeTypeFont, width: float, most: int) -> list[str]:
    """Break the text into at most `most` lines, with an ellipsis if it was cut."""
    words = to_latin(text[:MAX_TEXT]).split()
    cut = len(text) > MAX_TEXT
    lines: list[str] = []
    while words and len(lines) < most:
        line = words.pop(0)
        while words and face.getlength(f"{line} {words[0]}") <= width:
            line += f" {words.pop(0)}"
        whole = fit_line(line, face, width, ellipsis="")
        if whole != line:  # a word wider than the box goes on in the next line
            words.insert(0, line[len(whole) :])
        lines.append(whole)
    if (words or cut) and lines:
        lines[-1] = fit_line(f"{lines[-1]}…", face, width)
    return lines


def fit_line(line: str, face: ImageFont.FreeTypeFont, width: float, ellipsis: str = "…") -> str:
    """The part of the line that fits, at least one character."""
    if face.getlength(line) <= width:
        return line
    fits = bisect.bisect_right(range(1, len(line)), width, key=lambda count: face.getlength(line[:count] + ellipsis))
    return line[: max(1, fits)] + ellipsis


def to_latin(text: str) -> str:
    """The text in Latin letters where possible; Pillow's own font has no others."""
    plain = unicodedata.normalize("NFKD", text.translate(REPLACEMENTS))
    return "".join(letter for letter in plain if not unicodedata.combining(letter))


def rounded_mask(size: Size, radius: int, alpha: int) -> Image.Image:
    mask = Image.new("L", (size[0] * 2, size[1] * 2))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, mask.width - 1, mask.height - 1), radius * 1.4, fill=alpha)
    return mask.reduce(2)


def paste_centered(image: Image.Image, color: Color, mask: Image.Image, center: tuple[float, float]) -> None:
    image.paste(color, (round(center[0] - mask.width / 2), round(center[1] - mask.height / 2)), mask)


def mix(first: Color, second: Color, share: float) -> Color:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


@functools.lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont:
    face = ImageFont.load_default(size)
    if not isinstance(face, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType")
    return face
