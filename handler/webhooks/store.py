"""Keeps undelivered webhooks on the disk."""

import fcntl
import hashlib
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from handler import json_codec
from handler.webhooks.message import Delivery, receiver_host

logger = logging.getLogger(__name__)

# The lengths of an owner's name and of a hash.
_OWNER = _HASH = 16
_HEX = "[0-9a-f]{16}"
# Earlier versions had the hash of the host alone in the name.
_NAME = re.compile(rf"{_HEX}\.(lock|{_HEX}\.(promise|tmp|[0-9]{{4,}}\.{_HEX}({_HEX})?\.(delivery|tmp)))")


class WebhookStore:
    """Webhooks in a folder that several processes may share.

        <owner>.lock                                   held by the owner as long as it lives
        <owner>.<group>.promise                        what to send if the owner dies before it settles the group
        <owner>.<group>.<number>.<receiver>.delivery   a webhook; only a draft while there is a promise of its group
        <owner>.<group>....tmp                         a file that is being written

    Thus removing the promise makes all webhooks of its group valid at once. Only the owner touches its files. Those of a dead
    owner go to the process that gets its lock, which renames them. Files with other names are left alone.
    """

    def __init__(self, folder: Path, *, max_age_s: float, max_bytes: int) -> None:
        self._folder = folder
        self._max_age_s = max_age_s
        self._max_bytes = max_bytes
        self._opening = threading.Lock()
        self._lock: int | None = None
        self._owner = ""
        # The bytes added since the last check of the total, which takes long when there is a lot.
        self._unchecked = 0

    def add(self, group: str, deliveries: Iterable[Delivery]) -> list[Path]:
        """Write webhooks, all or none of them. Like all methods here it may raise OSError."""
        self._open()
        written: list[Path] = []
        try:
            for number, delivery in enumerate(deliveries):
                name = f"{self._owner}.{group}.{number:04}.{_receiver(delivery.url)}.delivery"
                written.append(_write(self._folder / name, [delivery]))
        except OSError:
            for path in written:
                path.unlink(missing_ok=True)
            raise
        self._sync()
        self._unchecked += sum(_time_and_size(path)[1] for path in written)
        if self._unchecked > self._max_bytes // 100:
            self._tidy()
        return written

    def promise(self, group: str, if_lost: Iterable[Delivery]) -> None:
        """Write what is to be sent if this process dies before it settles the group."""
        self._open()
        _write(self._folder / f"{self._owner}.{group}.promise", if_lost)
        self._sync()

    def settle(self, group: str, deliveries: Iterable[Delivery]) -> list[Path]:
        """Replace the promise by the webhooks that are to be sent, all at once."""
        written = self.add(group, deliveries)
        self.break_promise(group)
        return written

    def break_promise(self, group: str) -> None:
        (self._folder / f"{self._owner}.{group}.promise").unlink(missing_ok=True)
        self._sync()

    def waiting(self) -> list[Path]:
        """The webhooks of this process and of those that died, the oldest first."""
        if not self._folder.is_dir():
            return []
        self._open()
        self._adopt()
        self._tidy()
        mine = self._files(self._owner)
        promised = {path.stem for path in mine if path.suffix == ".promise"}
        return sorted(
            (path for path in mine if path.suffix == ".delivery" and _group(path) not in promised),
            key=lambda path: (_time_and_size(path)[0], path.name),
        )

    def close(self) -> None:
        if self._lock is not None:
            (self._folder / f"{self._owner}.lock").unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def _open(self) -> None:
        with self._opening:
            if self._lock is None:
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            while self._lock is None:
                # A new name each time: before the file is locked, another process may think that its owner is dead.
                self._owner = secrets.token_hex(_OWNER // 2)
                self._lock = _try_lock(self._folder / f"{self._owner}.lock")

    def _adopt(self) -> None:
        """Take over the files of dead processes. Their promises are sent as they are, because the jobs died as well."""
        for owner in {path.name[:_OWNER] for path in self._files()} - {self._owner}:
            path = self._folder / f"{owner}.lock"
            with logging_os_errors(path):
                lock = _try_lock(path)
                if lock is not None:
                    self._adopt_from(owner, path, lock)

    def _adopt_from(self, owner: str, path: Path, lock: int) -> None:
        try:
            self._take_over(owner)
            path.unlink(missing_ok=True)
        finally:
            os.close(lock)

    def _take_over(self, owner: str) -> None:
        left = [path for path in self._files(owner) if path.suffix != ".lock"]
        promises = [path for path in left if path.suffix == ".promise"]
        drafts = {path.stem for path in promises}
        for path in left:
            with logging_os_errors(path):
                if path.suffix == ".tmp" or (path.suffix == ".delivery" and _group(path) in drafts):
                    path.unlink(missing_ok=True)
                elif path.suffix == ".delivery":
                    self._rename_to_ours(path)
        # After the drafts, which without the promise would count as valid.
        for promise in promises:
            with logging_os_errors(promise):
                self._settle_lost(promise)
        if left:
            logger.warning("took over the webhooks of a process that ended; it left %d jobs unfinished", len(promises))

    def _settle_lost(self, promise: Path) -> None:
        # Make it ours first: if this process dies as well, there is a promise again, and its webhooks are only drafts.
        taken = self._rename_to_ours(promise)
        try:
            self.settle(taken.stem.partition(".")[2], read_deliveries(taken))
        except OSError:
            taken.rename(promise)  # so that it is tried again
            raise

    def _rename_to_ours(self, path: Path) -> Path:
        return path.rename(path.with_name(self._owner + path.name[_OWNER:]))

    def _tidy(self) -> None:
        """Drop webhooks that are too old, and the oldest ones while there are too many bytes; but never the newest."""
        self._unchecked = 0
        webhooks = sorted((*_time_and_size(path), path) for path in self._files() if path.suffix == ".delivery")
        total = sum(size for _, size, _ in webhooks)
        oldest = time.time_ns() - self._max_age_s * 1e9
        for written, size, path in webhooks[:-1]:
            if written >= oldest and total <= self._max_bytes:
                break
            total -= size
            with logging_os_errors(path):
                _drop(path, "it is too old" if written < oldest else "there are too many")

    def _files(self, owner: str = "") -> list[Path]:
        """The files of an owner, or of all."""
        files = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
        return [path for path in files if path.name.startswith(owner)]

    def _sync(self) -> None:
        """Make the folder's own changes survive a power failure, where the file system can."""
        descriptor = os.open(self._folder, os.O_RDONLY)
        with suppress(OSError):
            os.fsync(descriptor)
        os.close(descriptor)


@contextmanager
def logging_os_errors(path: Path) -> Iterator[None]:
    """Log an OSError of one file, so that the next one gets its turn. A missing file was removed by another process."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as exc:
        logger.error("%s is left for later: %s", path.name, exc.strerror)


def _drop(path: Path, reason: str) -> None:
    for delivery in read_deliveries(path):
        receiver = receiver_host(delivery.url)
        logger.error("job %r: its webhook to %s is dropped: %s", delivery.webhook_id, receiver, reason)
    path.unlink(missing_ok=True)


def _try_lock(path: Path) -> int | None:
    """The descriptor that holds a file's lock until it is closed or the process ends; None if another process has the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with ExitStack() as undo:
        undo.callback(os.close, descriptor)
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been removed and created again since it was opened.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                undo.pop_all()
                return descriptor
    return None


def _write(path: Path, deliveries: Iterable[Delivery]) -> Path:
    temporary = path.with_suffix(".tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            for one in deliveries:
                size = len(one.body)
                file.write(
                    json_codec.encode({"url": one.url, "id": one.webhook_id, "standard": one.standard, "size": size})
                    + b"\n"
                )
                file.write(one.body)
            file.flush()
            os.fsync(file.fileno())
        return temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_deliveries(path: Path) -> list[Delivery]:
    """The webhooks in a file; none when it is gone. A damaged file is removed, and what precedes the damage is returned."""
    deliveries: list[Delivery] = []
    try:
        with path.open("rb") as file:
            longest = os.fstat(file.fileno()).st_size
            while not deliveries or file.tell() < longest:
                head = _Head.model_validate_json(file.readline())
                body = file.read(min(head.size, longest))
                if len(body) < head.size:
                    raise ValueError("cut short")
                body.decode()  # signing needs text
                deliveries.append(Delivery(head.url, head.id, body, head.standard))
    except FileNotFoundError:
        return []
    except ValueError:
        logger.error("%s is damaged; its webhooks are lost", path.name)
        path.unlink(missing_ok=True)
    return deliveries


class _Head(BaseModel):
    """The line before a body; `size` is the body's, in bytes."""

    model_config = ConfigDict(strict=True)

    url: str
    id: str
    standard: bool
    size: NonNegativeInt


def _group(path: Path) -> str:
    return ".".join(path.name.split(".")[:2])


def address(webhook: Path | Delivery) -> tuple[str, str, str]:
    """The host that a webhook goes to, its receiver, which is one URL of the host, and its group."""
    if isinstance(webhook, Delivery):
        receiver, group = _receiver(webhook.url), ""
    else:
        _, group, _, receiver, _ = webhook.name.split(".")
    return receiver[:_HASH], receiver, group


def _receiver(url: str) -> str:
    return _hash(receiver_host(url)) + _hash(url)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:_HASH]


def _time_and_size(path: Path) -> tuple[int, int]:
    """When a file was written, in ns since the epoch, and its size. 0 and 0 for a file that has just been removed."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_mtime_ns, status.st_size
