"""Which files in the model folders are downloads of ours: from where, how large, when used last, which may go."""

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
from typing import BinaryIO

import filelock
import orjson
from pydantic import TypeAdapter, ValidationError

from handler import disk
from handler.errors import InputUnavailable
from handler.net import deadline

logger = logging.getLogger(__name__)

_LOCK_TIMEOUT_S = 30
# Files of locks stay: who waits for one has it open, and would not see that another one has its name. So there are 65,536 of
# them at most, and hardly ever two downloads that wait for each other because they share one.
_LOCK_DIGITS = 4


@dataclass(frozen=True)
class Entry:
    """One download. `url` is without its secrets, `key` stands for the whole of it, `used` is in seconds since the epoch.

    `private` says that a caller's credentials opened it; `pinned` that the manifest asked for it, so that it stays.
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
        """What the file system says of that file; None when it is not there."""
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found if stat.S_ISREG(found.st_mode) and found.st_size == self.size else None


_ENTRIES = TypeAdapter(dict[Path, Entry])


class ModelIndex:
    """The downloads, as a file in CACHE_DIR that several processes may share. They are found again after a restart."""

    def __init__(self, cache_dir: Path) -> None:
        self._locks = cache_dir / "locks"
        self._file = cache_dir / "models.json"

    def entries(self) -> dict[Path, Entry]:
        try:
            return _ENTRIES.validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        except ValidationError:
            # Written by another version, or by hand: the files stay, and are nobody's downloads from now on.
            logger.warning("%s cannot be read, and is begun anew", self._file)
            return {}

    @contextlib.contextmanager
    def update(self) -> Iterator[dict[Path, Entry]]:
        """The entries, to be changed in place by one at a time; written when the block ends well and changed them."""
        with self._locked("index", _LOCK_TIMEOUT_S, "The list of downloaded models is locked by another process."):
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

        Two names may share one: who holds it must not ask for another.
        """
        return self._locked(hash_text(name)[:_LOCK_DIGITS], timeout_s, complaint)

    @contextlib.contextmanager
    def _locked(self, file: str, timeout_s: float, complaint: str) -> Iterator[None]:
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


def open_in_use(path: Path) -> BinaryIO:
    """An open file that says to all processes, until it is closed, that it is in use.

    The lock goes with the open file, so that nothing stays behind when the process dies. A file system without such locks
    has no protection from `removed`, which then does not remove either.
    """
    file = path.open("rb")
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_SH)
    return file


def evict(entries: dict[Path, Entry], limit: float) -> dict[Path, Entry]:
    """Remove the files that were used least recently until the rest has at most `limit` bytes; gives what was removed.

    Takes them out of `entries` as well. What the manifest asked for does not count; what is in use stays.
    """
    found = {path: status for path, entry in entries.items() if (status := entry.stat_at(path))}
    for path in entries.keys() - found.keys():
        del entries[path]
    loose = sorted((entry.used, path) for path, entry in entries.items() if not entry.pinned)
    # Two names of one file take its space once.
    total = sum({found[path].st_ino: entries[path].size for _, path in loose}.values())
    gone: dict[Path, Entry] = {}
    for _, path in loose:
        if total <= limit:
            break
        if names := _removed(path):
            gone[path] = entries.pop(path)
            total -= gone[path].size if names == 1 else 0
    return gone


def _removed(path: Path) -> int:
    """Remove a file, unless it is in use; gives how many names it had, 0 where it stays."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            names = os.fstat(file.fileno()).st_nlink
            path.unlink()
    except OSError:
        return 0
    return names


def hash_text(text: str) -> str:
    """A name for a text that may hold secrets."""
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()
