"""Model files in use, which no process that shares their folder removes."""

import contextlib
import fcntl
from pathlib import Path
from typing import BinaryIO, Self


class Hold:
    """Keeps files from being removed by `index.evict` until it is closed, or until this process ends.

    The files are open and locked, and a lock goes with its open file, so that nothing stays behind when the process dies. On a
    file system without such locks `evict` removes nothing.
    """

    def __init__(self) -> None:
        self._files: list[BinaryIO] = []

    def add(self, path: Path) -> None:
        """Hold one more file. Raises OSError when it cannot be opened."""
        file = path.open("rb")
        self._files.append(file)
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH)

    def take(self, other: "Hold") -> None:
        """Hold what another one holds, in its place."""
        self._files += other._files
        other._files = []

    def close(self) -> None:
        for file in self._files:
            file.close()
        self._files = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
