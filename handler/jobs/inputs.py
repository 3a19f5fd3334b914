"""Fetches what the caller put into a graph's uploadable inputs: a URL, a data URI, base64, or the name of a file."""

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

import filetype
import pybase64

from handler import disk, storage
from handler.comfyui import ComfyClient
from handler.errors import InputUnavailable, TooLarge, locate
from handler.graphs import Graph, MediaInput, NodeClasses, file_stem, media_inputs, set_inputs
from handler.jobs import images
from handler.settings import Settings
from handler.storage import AuthFor
from handler.urls import describe_url

_URL = re.compile(r"[a-z][a-z0-9+.-]{0,30}://", re.IGNORECASE)
# Longer than any path on a disk: a longer value is base64, and ComfyUI is not asked whether it is a file.
_MAX_NAME = 1024
# In characters: decoding percent-encoded data takes a hundred times its size.
_MAX_QUOTED = 1 << 20

# The media types that each kind of input accepts, as the first bytes tell. Pillow decides for images.
_ACCEPTED = {"video": ("video", "image"), "audio": ("audio", "video")}


@dataclass(frozen=True)
class _FetchedInput:
    """One input of the graph, and the files with its content: one, or those of a folder."""

    place: MediaInput
    files: list[Path]


def fetch_inputs(
    prompt: Graph,
    classes: NodeClasses,
    folder: str,
    auth_for: AuthFor,
    comfy: ComfyClient,
    settings: Settings,
) -> Graph:
    """The graph with the names of files in its uploadable inputs. The files are put into `folder` of ComfyUI's input folder.

    ComfyUI gets them over HTTP when its input folder is not on this disk. Raises InputUnavailable, ForbiddenUrl or TooLarge
    with the input as location; files that were written until then are the caller's to remove.
    """
    places = [place for place in media_inputs(prompt, classes) if not _is_there(place.value, comfy)]
    if not places:
        return prompt
    fetcher = _Fetcher(auth_for, settings)
    local = settings.input_dir / folder
    if settings.input_dir.is_dir():
        fetched = fetcher.fetch_all(places, local)
        if not comfy.has_input(f"{folder}/{fetched[0].files[0].relative_to(local).as_posix()}"):
            _upload(fetched, local, folder, comfy)
            shutil.rmtree(local)
    else:
        with tempfile.TemporaryDirectory() as name:
            fetched = fetcher.fetch_all(places, Path(name))
            _upload(fetched, Path(name), folder, comfy)
    return set_inputs(prompt, {(one.place.node_id, one.place.name): _value(one, folder) for one in fetched})


def is_remote(place: MediaInput) -> bool:
    """Whether one of the values of the input is a URL."""
    values = [place.value] if isinstance(place.value, str) else place.value
    return any(_URL.match(value) for value in values)


def _is_there(value: str | list[str], comfy: ComfyClient) -> bool:
    """Whether the value is the name of a file that ComfyUI has already."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME:
        return False
    return not _URL.match(value) and not value.startswith("data:") and comfy.has_input(value)


def _upload(fetched: list[_FetchedInput], root: Path, folder: str, comfy: ComfyClient) -> None:
    """Put fetched files into the input folder of a ComfyUI on another disk, as they lie under `root`."""
    for file in (file for one in fetched for file in one.files):
        comfy.upload(file, (Path(folder) / file.relative_to(root).parent).as_posix())


def _value(one: _FetchedInput, prefix: str) -> str:
    # A folder input names the folder; its files are numbered in the caller's order.
    name = one.files[0].name if isinstance(one.place.value, str) else one.files[0].parent.name
    return f"{prefix}/{name}"


@dataclass(frozen=True)
class _Fetcher:
    auth_for: AuthFor
    settings: Settings

    def fetch_all(self, places: list[MediaInput], folder: Path) -> list[_FetchedInput]:
        """The files of all inputs, in `folder`. Their names are numbered: two ids of nodes may look the same in file names."""
        return [self._fetch(place, folder, f"{n}_{file_stem(place.name)}") for n, place in enumerate(places)]

    def _fetch(self, place: MediaInput, folder: Path, name: str) -> _FetchedInput:
        with locate(place.location):
            if isinstance(place.value, str):
                return _FetchedInput(place, [self._fetch_value(place.value, place.medium, folder, name)])
            values = enumerate(place.value)
            return _FetchedInput(
                place, [self._fetch_value(value, "image", folder / name, f"{n:05d}") for n, value in values]
            )

    def _fetch_value(self, value: str, medium: str, folder: Path, name: str) -> Path:
        """One value as a file with the suffix that its content asks for."""
        raw = folder / f"{name}.part"
        max_bytes = int(self.settings.max_input_size_mb * (1 << 20))
        with disk.writing("the inputs"):
            folder.mkdir(parents=True, exist_ok=True)
        with disk.writing("the inputs"), raw.open("w+b") as file:
            if _URL.match(value):
                store = storage.store_for_url(value, self.settings)
                with storage.time_limit(value, self.settings.input_timeout_s):
                    store.fetch(value, file, auth=self.auth_for(value), max_bytes=max_bytes)
            else:
                file.write(_decode(value, max_bytes))
        what = describe_url(value) if _URL.match(value) else "The value"
        return raw.rename(raw.with_suffix(f".{_extension(raw, medium, what)}"))


def _decode(value: str, max_bytes: int) -> bytes:
    """The bytes of a data URI or of plain base64."""
    header, comma, body = value.partition(",") if value.startswith("data:") else ("", ",", value)
    if not comma:
        raise InputUnavailable("The data URI has no comma, so it has no content.")
    if len(body) * 3 // 4 > max_bytes + 3:
        raise TooLarge(f"The input is larger than {max_bytes / (1 << 20):g} MB (MAX_INPUT_SIZE_MB).")
    if header and not header.endswith(";base64"):
        if len(body) > _MAX_QUOTED:
            raise TooLarge("A data URI of that size has to be base64.")
        return unquote_to_bytes(body)
    try:
        compact = "".join(body.split())
        return pybase64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except ValueError as exc:  # binascii.Error among them
        what = "The data URI is not valid base64" if header else f"{_short(value)} is not a URL, a file name or base64"
        raise InputUnavailable(f"{what}.") from exc


def _extension(file: Path, medium: str, what: str) -> str:
    """The suffix for a file, from its first bytes. Raises InputUnavailable for another medium than the node takes."""
    if file.stat().st_size == 0:
        raise InputUnavailable(f"{what} is empty.")
    if medium == "image" or medium == "images":
        return images.check_input(file.read_bytes()).format.lower()
    kind = filetype.guess(str(file))
    if kind is None or kind.mime.partition("/")[0] not in _ACCEPTED[medium]:
        raise InputUnavailable(f"{what} is not {medium} data that can be recognised.")
    return str(kind.extension)


def _short(value: str) -> str:
    return repr(value if len(value) <= 40 else value[:37] + "...")
