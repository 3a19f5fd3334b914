"""GET /view."""

import io
import mimetypes
import re
from collections.abc import Callable
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from emulator.comfyui import Folders, resolve_inside, split_annotation

# sent as octet-stream, so that a browser does not run what was uploaded
UNSAFE_TYPES = frozenset({"text/html", "text/html-sandboxed", "application/xhtml+xml", "text/javascript", "text/css"})

BYTE_RANGE = re.compile(r"bytes=(\d+)-\d*")


async def view_file(request: Request, folders: Folders) -> Response:
    """The file that the query names, converted if it asks for that."""
    query = request.query_params
    if "filename" not in query:
        return Response(status_code=404)
    file = find_file(query, folders)
    if isinstance(file, Response):
        return file
    headers = {"content-disposition": f'filename="{file.name}"'}
    if "preview" in query:
        body, media_type = await run_in_threadpool(_preview, file, query["preview"], query.get("channel", ""))
        return Response(body, media_type=media_type, headers=headers)
    if query.get("channel") in CHANNELS:
        body = await run_in_threadpool(_channel, file, CHANNELS[query["channel"]])
        return Response(body, media_type="image/png", headers=headers)
    return _send_file(file, request, headers)


def find_file(query: QueryParams, folders: Folders) -> Path | Response:
    """The file that the query names, or an error response."""
    name, file_type = split_annotation(query["filename"])
    if not name or name.startswith("/") or ".." in name:
        return Response(status_code=400)
    top = folders.of_type(file_type or query.get("type", "output"))
    if top is None:
        return Response(status_code=400)
    folder = resolve_inside(top, query.get("subfolder", ""))
    if folder is None:
        return Response(status_code=403)
    # subfolders have a parameter of their own, so only the last part of the name is used
    file = folder / name.rpartition("/")[2]
    return file if file.is_file() else Response(status_code=404)


def _send_file(file: Path, request: Request, headers: dict[str, str]) -> Response:
    stat = file.stat()
    headers["etag"] = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
    headers["last-modified"] = formatdate(stat.st_mtime, usegmt=True)
    media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    headers["content-type"] = "application/octet-stream" if media_type in UNSAFE_TYPES else media_type
    if _is_not_modified(request.headers, headers["etag"], int(stat.st_mtime)):
        return Response(status_code=304, headers=headers)
    asked = BYTE_RANGE.fullmatch(request.headers.get("range", ""))
    if asked and int(asked[1]) >= stat.st_size:
        return Response(status_code=416, headers={**headers, "content-range": f"bytes */{stat.st_size}"})
    return FileResponse(file, headers=headers, stat_result=stat)


def _is_not_modified(asked: Headers, etag: str, modified: int) -> bool:
    if "if-none-match" in asked:
        return etag in [tag.strip() for tag in asked["if-none-match"].split(",")]
    try:
        since = parsedate_to_datetime(asked.get("if-modified-since", ""))
    except ValueError:
        return False
    return modified <= since.timestamp()


def _preview(file: Path, wanted: str, channel: str) -> tuple[bytes, str]:
    """Convert as in "webp;90"; formats other than jpeg become webp."""
    parts = wanted.split(";")
    image_format = "jpeg" if parts[0] == "jpeg" and "a" not in channel else "webp"
    quality = int(parts[-1]) if parts[-1].isdigit() else 90
    with Image.open(file) as picture:
        flat = image_format == "jpeg" or channel == "rgb"
        return _encode(
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
        return _encode(extract(picture), "png")


def _encode(picture: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=image_format, **options)
    return buffer.getvalue()
