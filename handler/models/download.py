"""One download: where its file goes, and the transfer into a part file beside it, which resumes when it broke off."""

import contextlib
import hashlib
import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tenacity import Retrying, before_sleep_log, retry_if_exception, stop_after_attempt, wait_exponential

from handler import disk, storage
from handler.errors import BadRequest, DiskFull, InputUnavailable, TooLarge
from handler.models.folders import MODEL_SUFFIXES
from handler.models.index import Entry, hash_text
from handler.net import deadline
from handler.schemas import Auth
from handler.settings import Settings
from handler.urls import describe_url

logger = logging.getLogger(__name__)

_TRIES = 3
# An older part file is dropped and the transfer restarts: behind the URL there may be another file by now.
_PART_AGE_S = 24 * 3600
_MAX_NAME_BYTES = 200
_URL = re.compile(r"(https?|s3|hf|azure)://", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[\0-\x1f\x7f\ud800-\udfff]")
# The suffixes that stay as they are: ComfyUI's own, of models and of configs, and that of a well-known custom node.
_KNOWN_SUFFIXES = MODEL_SUFFIXES | {".gguf", ".yaml"}
# What a file without one of them is, by its first bytes.
_MAGIC = {b"GGUF": ".gguf", b"PK\x03\x04": ".ckpt", b"\x80\x02": ".ckpt"}


@dataclass(frozen=True)
class Download:
    """A URL, and where its file goes. Without `exact` a suffix may be added to the name.

    `name` None: whatever name the URL's file has already, otherwise the URL's own name behind a hash of the URL. Others must
    not take the file that a job brings for the model with the plain name.
    """

    url: str
    folder: Path
    name: str | None
    exact: bool = True
    auth: Auth | None = None
    sha256: str | None = None
    pinned: bool = False

    @property
    def key(self) -> str:
        return hash_text(self.url)

    @property
    def path(self) -> Path:
        return self.folder / (self.name or f"{self.key[:8]}-{name_from_url(self.url)}")

    def is_met_by(self, path: Path, entry: Entry) -> bool:
        good = self.name is None or path.name == self.name or (not self.exact and path.stem == self.name)
        return good and path.parent == self.folder and entry.key == self.key and entry.is_at(path)

    def target(self, content: Path) -> Path:
        """The path, with a suffix that suits the content."""
        return self.path if self.exact else self.folder / with_suffix(self.path.name, content)

    def may_take(self, path: Path, entry: Entry | None) -> bool:
        """Whether the path is free or may be overwritten: only the operator overwrites the file of another URL."""
        if not path.exists():
            return True
        same = entry is not None and entry.key == self.key
        return not path.is_dir() and (self.pinned or self.name is None or same)


def transfer(url: str, part: Path, settings: Settings, *, auth: Auth | None) -> None:
    """Fill the part file with the content of the URL, behind what it holds already.

    Raises InputUnavailable and leaves the part file, with which a later call resumes; or DiskFull or TooLarge, and leaves
    nothing.
    """
    _sweep(part.parent)
    part.touch()
    version = storage.Version(part.with_name(f"{part.name}.version"))
    sizes = [part.stat().st_size]

    def is_worth_a_retry(exc: BaseException) -> bool:
        # Fetching is safe to repeat, it changes nothing at the other end. A refusal would be repeated, and brings no byte.
        sizes.append(part.stat().st_size)
        moved = sizes[-1] not in (0, sizes[-2])
        return isinstance(exc, InputUnavailable) and (exc.retryable or moved) and deadline.left_s() > 0

    retrying = Retrying(
        stop=stop_after_attempt(_TRIES),
        wait=wait_exponential(multiplier=0.25, max=5),
        retry=retry_if_exception(is_worth_a_retry),
        before_sleep=before_sleep_log(logger, logging.WARNING),
        sleep=deadline.sleep,
        reraise=True,
    )
    try:
        retrying(_attempt, url, part, version, settings, auth)
        version.path.unlink(missing_ok=True)
    except DiskFull:
        part.write_bytes(b"")  # it would keep the disk full
        raise
    except TooLarge as exc:
        part.write_bytes(b"")
        limit = f"{settings.max_model_size_gb:g} GB (MAX_MODEL_SIZE_GB)"
        raise TooLarge(f"{describe_url(url)} is larger than {limit}.") from exc
    finally:
        if part.stat().st_size == 0:
            part.unlink()
            version.path.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove old part files, for which nobody has asked again."""
    for part in folder.glob(".*.part-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > _PART_AGE_S:
                part.unlink()


def _attempt(url: str, part: Path, version: storage.Version, settings: Settings, auth: Auth | None) -> None:
    with disk.writing(str(part)), part.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        max_bytes = int(settings.max_model_size_gb * (1 << 30))
        store = storage.store_for_url(url, settings)
        store.fetch(url, file, version=version, auth=auth, max_bytes=max_bytes)
        file.flush()
        os.fsync(file.fileno())


def check_content(url: str, part: Path, sha256: str | None) -> None:
    """Raise InputUnavailable for content that is empty or not what was asked for, and remove it."""
    found = file_sha256(part) if sha256 and part.exists() else sha256
    if found != sha256:
        part.unlink()
        raise InputUnavailable(f"{describe_url(url)} has the sha256 {found}, not {sha256}.", location="sha256")
    if not part.exists():
        raise InputUnavailable(f"{describe_url(url)} is empty.")


def file_sha256(path: Path) -> str | None:
    """None when there is no such file, or no longer."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        return None


def is_url(value: str) -> bool:
    """Whether the value of a model input is a URL; anything else is the name of a file."""
    return bool(_URL.match(value))


def name_from_url(url: str) -> str:
    """The file name at the end of a URL; a hash of the URL when there is none."""
    try:
        path = urlsplit(url).path
    except ValueError:  # brackets without an IPv6 address; fetching it says so
        path = ""
    name = _UNPRINTABLE.sub("", re.split(r"[/\\]", unquote(path))[-1]).strip(" .")
    stem, dot, suffix = name.rpartition(".")
    max_stem = _MAX_NAME_BYTES - len((dot + suffix).encode())
    if len(name.encode()) > _MAX_NAME_BYTES:
        name = stem.encode()[: max(1, max_stem)].decode(errors="ignore") + dot + suffix[:20]
    return name or hash_text(url)[:16]


def safe_name(given: str) -> str:
    """The caller's file name, made safe for a model folder: its last part, not hidden. Raises BadRequest."""
    absolute = given.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", given)
    name = re.split(r"[/\\]", given)[-1].strip().lstrip(". ")
    if absolute or not name or _UNPRINTABLE.search(name) or len(name.encode()) > _MAX_NAME_BYTES:
        raise BadRequest(f"{given[:100]!r} cannot be the name of a file in a model folder.", location="filename")
    return name


def with_suffix(name: str, content: Path) -> str:
    """A name with the suffix that its content asks for, unless it has a known one."""
    if Path(name).suffix.lower() in _KNOWN_SUFFIXES:
        return name
    with content.open("rb") as file:
        start = file.read(9)
    # A safetensors file begins with the length of a JSON object, and the object.
    if start[8:] == b"{":
        return f"{name}.safetensors"
    return name + next((suffix for magic, suffix in _MAGIC.items() if start.startswith(magic)), "")
