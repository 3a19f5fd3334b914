"""POST /upload/image and /upload/mask."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from emulator.comfyui import Folders, resolve_inside


async def store_image(form: FormData, folders: Folders) -> dict[str, str] | None:
    """Store an uploaded file and return its name; None if the request is invalid."""
    return await run_in_threadpool(_store, form, folders, _copy)


async def store_mask(form: FormData, folders: Folders) -> dict[str, str] | None:
    """Store the image that the form refers to, with the alpha channel of the uploaded one."""
    original = json.loads(str(form["original_ref"]))

    def save(uploaded: BinaryIO, target: Path) -> None:
        picture = _original(original, folders)
        if picture is not None:
            _save_masked(picture, uploaded, target)

    return await run_in_threadpool(_store, form, folders, save)


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
    wanted = resolve_inside(top, str(Path(os.path.normpath(subfolder)) / (image.filename or "")))
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
    """The first of "x.png", "x (1).png", ... that is free, or that has the same content (then True)."""
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
    file = top and resolve_inside(top, f"{reference.get('subfolder') or '.'}/{reference['filename']}")
    return file if file and file.is_file() else None


def _save_masked(original: Path, uploaded: BinaryIO, target: Path) -> None:
    with Image.open(original) as picture, Image.open(uploaded) as mask:
        masked = picture.convert("RGBA")
        masked.putalpha(mask.convert("RGBA").getchannel("A"))
        masked.save(target, format="PNG", compress_level=4)
