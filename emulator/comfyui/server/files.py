"""The HTTP side of files: /view, /upload/image and /upload/mask."""

import hashlib
import io
import json
import mimetypes
import os
import re
from collections.abc import Callable
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, Headers, QueryParams, UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from emulator.comfyui.folders import Folders, annotated, inside

# a browser must not run what someone uploaded
DOWNLOADED = frozenset({"text/html", "text/html-sandboxed", "application/xhtml+xml", "text/javascript", "text/css"})

BEYOND = re.compile(r"bytes=(\d+)-\d*")


async def view(request: Request, folders: Folders) -> Response:
    """GET /view."""
    query = request.query_params
    if "filename" not in query:
        return Response(status_code=404)
    file = located(query, folders)
    if isinstance(file, Response):
        return file
    headers = {"content-disposition": f'filename="{file.name}"'}
    if "preview" in query:
        body, media_type = await run_in_threadpool(_preview, file, query["preview"], query.get("channel", ""))
        return Response(body, media_type=media_type, headers=headers)
    if query.get("channel") in CHANNELS:
        body = await run_in_threadpool(_channel, file, CHANNELS[query["channel"]])
        return Response(body, media_type="image/png", headers=headers)
    return _whole(file, request, headers)


def located(query: QueryParams, folders: Folders) -> Path | Response:
    """The file that the query names, or the refusal."""
    name, file_type = annotated(query["filename"])
    if not name or name.startswith("/") or ".." in name:
        return Response(status_code=400)
    top = folders.of_type(file_type or query.get("type", "output"))
    if top is None:
        return Response(status_code=400)
    folder = inside(top, query.get("subfolder", ""))
    if folder is None:
        return Response(status_code=403)
    # only the last part counts: a subfolder has a parameter of its own
    file = folder / name.rpartition("/")[2]
    return file if file.is_file() else Response(status_code=404)


async def store_image(form: FormData, folders: Folders) -> dict[str, str] | None:
    """Keep an uploaded file and say under which name; None when the request is refused."""
    return await run_in_threadpool(_store, form, folders, _copy)


async def store_mask(form: FormData, folders: Folders) -> dict[str, str] | None:
    """Keep the picture that the form refers to, with the alpha channel of the uploaded one."""
    original = json.loads(str(form["original_ref"]))

    def save(uploaded: BinaryIO, target: Path) -> None:
        picture = _original(original, folders)
        if picture is not None:
            _save_masked(picture, uploaded, target)

    return await run_in_threadpool(_store, form, folders, save)


def _whole(file: Path, request: Request, headers: dict[str, str]) -> Response:
    stat = file.stat()
    headers["etag"] = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
    headers["last-modified"] = formatdate(stat.st_mtime, usegmt=True)
    media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    headers["content-type"] = "application/octet-stream" if media_type in DOWNLOADED else media_type
    if _unchanged(request.headers, headers["etag"], int(stat.st_mtime)):
        return Response(status_code=304, headers=headers)
    beyond = BEYOND.fullmatch(request.headers.get("range", ""))
    if beyond and int(beyond[1]) >= stat.st_size:
        return Response(status_code=416, headers={**headers, "content-range": f"bytes */{stat.st_size}"})
    return FileResponse(file, headers=headers, stat_result=stat)


def _unchanged(asked: Headers, etag: str, modified: int) -> bool:
    if "if-none-match" in asked:
        return etag in [tag.strip() for tag in asked["if-none-match"].split(",")]
    try:
        since = parsedate_to_datetime(asked.get("if-modified-since", ""))
    except ValueError:
        return False
    return modified <= since.timestamp()


def _preview(file: Path, wish: str, channel: str) -> tuple[bytes, str]:
    """Encode as "webp;90" asks; what is neither webp nor jpeg becomes webp."""
    parts = wish.split(";")
    image_format = "jpeg" if parts[0] == "jpeg" and "a" not in channel else "webp"
    quality = int(parts[-1]) if parts[-1].isdigit() else 90
    with Image.open(file) as picture:
        flat = image_format == "jpeg" or channel == "rgb"
        return _encoded(
            picture.convert("RGB") if flat else picture, image_format, quality=quality
        ), f"image/{image_format}"


def _rgb(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB")


def _alpha(picture: Image.Image) -> Image.Image:
    alpha = picture.getchannel("A") if picture.mode == "RGBA" else Image.new("L", picture.size, 255)
    mask = Image.new("RGBA", picture.size)
    mask.putalpha(alpha)
    return mask


CHANNELS = {"rgb": _rgb, "a": _alpha}


def _channel(file: Path, extract: Callable[[Image.Image], Image.Image]) -> bytes:
    with Image.open(file) as picture:
        return _encoded(extract(picture), "png")


def _encoded(picture: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def _store(form: FormData, folders: Folders, save: Callable[[BinaryIO, Path], None]) -> dict[str, str] | None:
    image = form.get("image")
    file_type = str(form.get("type") or "input")
    top = folders.of_type(file_type)
    if top is None:
        raise ValueError(f"no folder for files of type {file_type}")
    if not image:
        return None
    if not isinstance(image, UploadFile):
        raise TypeError("image is a text field")
    subfolder = str(form.get("subfolder") or "")
    wanted = inside(top, str(Path(os.path.normpath(subfolder)) / (image.filename or "")))
    if not image.filename or wanted is None:
        return None
    folder = top / os.path.normpath(subfolder)
    folder.mkdir(parents=True, exist_ok=True)
    overwrite = form.get("overwrite") in ("true", "1")
    target, is_duplicate = (wanted, False) if overwrite else _free_name(wanted, image.file)
    if not is_duplicate:
        save(image.file, target)
    return {"name": os.path.relpath(target, folder), "subfolder": subfolder, "type": file_type}


def _free_name(wanted: Path, uploaded: BinaryIO) -> tuple[Path, bool]:
    """The first of "x.png", "x (1).png", ... that is free, or that holds the same bytes (then True)."""
    target, number = wanted, 0
    digest = _digest(uploaded)
    while target.exists():
        with target.open("rb") as present:
            if _digest(present) == digest:
                return target, True
        number += 1
        target = wanted.with_name(f"{wanted.stem} ({number}){wanted.suffix}")
    return target, False


def _digest(file: BinaryIO) -> bytes:
    digest = hashlib.sha256(file.read()).digest()
    file.seek(0)
    return digest


def _copy(uploaded: BinaryIO, target: Path) -> None:
    target.write_bytes(uploaded.read())


def _original(reference: dict[str, str], folders: Folders) -> Path | None:
    top = folders.of_type(reference.get("type", "output"))
    file = top and inside(top, f"{reference.get('subfolder') or '.'}/{reference['filename']}")
    return file if file and file.is_file() else None


def _save_masked(original: Path, uploaded: BinaryIO, target: Path) -> None:
    with Image.open(original) as picture, Image.open(uploaded) as mask:
        masked = picture.convert("RGBA")
        masked.putalpha(mask.convert("RGBA").getchannel("A"))
        masked.save(target, format="PNG", compress_level=4)
