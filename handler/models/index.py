"""The list of downloaded models: from where each file came, how large it is, when it was used last, which may be removed."""

import contextlib
import fcntl
import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import filelock
import orjson
from pydantic import TypeAdapter, ValidationError

from handler import disk
from handler.errors import InputUnavailable
from handler.net import deadline

logger = logging.getLogger(__name__)

_LOCK_TIMEOUT_S = 30
# Lock files are never removed: a process that waits for one has it open, and would not see that a new one has its name. Four
# digits make at most 65,536 of them, and two downloads hardly ever wait for each other because they share one.
_LOCK_DIGITS = 4


@dataclass(frozen=True)
class Entry:
    """One download. `url` is without its secrets, `key` is a hash of the whole URL, `used` is in seconds since the epoch.

    `private`: it was fetched with a caller's credentials. `pinned`: the manifest asked for it, so it is never removed.
    """

    url: str
    key: str
    size: int
    private: bool
    pinned: bool
    used: float
    sha256: str | None = None

    def is_at(self, path: Path) -> bool:
        """Whether the file is still there, and still the one that was downloaded, as far as its size tells."""
        return self.stat_at(path) is not None

    def stat_at(self, path: Path) -> os.stat_result | None:
        """The status of that file; None when it is not there any more."""
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found if stat.S_ISREG(found.st_mode) and found.st_size == self.size else None


_ENTRIES = TypeAdapter(dict[Path, Entry])


class ModelIndex:
    """The downloads, in a file in CACHE_DIR that several processes may share and that outlives a restart."""

    def __init__(self, cache_dir: Path) -> None:
        self._locks = cache_dir / "locks"
        self._file = cache_dir / "models.json"

    def entries(self) -> dict[Path, Entry]:
        try:
            return _ENTRIES.validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        except ValidationError:
            # Written by another version, or by hand: the files stay, but no longer count as downloads.
            logger.warning("%s cannot be read; the list of downloads starts empty", self._file)
            return {}

    @contextlib.contextmanager
    def update(self) -> Iterator[dict[Path, Entry]]:
        """The entries, to be changed in place under a lock; they are written if the block succeeds and has changed them."""
        with self._lock_file("index", _LOCK_TIMEOUT_S, "The list of downloaded models is locked by another process."):
            entries = self.entries()
            before = dict(entries)
            yield entries
            if entries != before:
                new = self._file.with_suffix(".new")
                with disk.writing("the list of downloaded models"):
                    new.write_bytes(orjson.dumps({str(path): entry for path, entry in entries.items()}))
                    new.replace(self._file)

    def lock(self, name: str, timeout_s: float, complaint: str) -> AbstractContextManager[None]:
        """A lock among all processes that share CACHE_DIR. Raises InputUnavailable with the complaint after the time-out.

        Two names may share a lock: do not ask for a second while you hold one.
        """
        return self._lock_file(hash_text(name)[:_LOCK_DIGITS], timeout_s, complaint)

    @contextlib.contextmanager
    def _lock_file(self, file: str, timeout_s: float, complaint: str) -> Iterator[None]:
        lock = filelock.FileLock(self._locks / f"{file}.lock")
        with disk.writing(f"CACHE_DIR={str(self._locks.parent)!r}"):
            self._locks.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=max(0.0, timeout_s), cancel_check=lambda: deadline.left_s() <= 0)
            except filelock.Timeout as exc:
                raise InputUnavailable(complaint) from exc
        try:
            yield
        finally:
            lock.release()


def evict(entries: dict[Path, Entry], limit: float) -> dict[Path, Entry]:
    """Remove the least recently used files until the rest has at most `limit` bytes; returns the removed ones.

    They are taken out of `entries` as well. Pinned files do not count; files in use stay.
    """
    found = {path: status for path, entry in entries.items() if (status := entry.stat_at(path))}
    for path in entries.keys() - found.keys():
        del entries[path]
    loose = sorted((entry.used, path) for path, entry in entries.items() if not entry.pinned)
    # Two names of one file take its space once.
    total = sum({found[path].st_ino: entries[path].size for _, path in loose}.values())
    removed: dict[Path, Entry] = {}
    for _, path in loose:
        if total <= limit:
            break
        if names := _remove(path):
            removed[path] = entries.pop(path)
            total -= removed[path].size if names == 1 else 0
    return removed


def _remove(path: Path) -> int:
    """Remove a file, unless it is in use; returns how many names it had, 0 if it stays."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            names = os.fstat(file.fileno()).st_nlink
            path.unlink()
    except OSError:
        return 0
    return names


def hash_text(text: str) -> str:
    """The SHA-256 of a text that may hold secrets, as a name for it."""
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()
