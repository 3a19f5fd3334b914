"""Turns failures to write files into HandlerErrors."""

import contextlib
import errno
from collections.abc import Iterator

from handler.errors import DiskFull, HandlerError

# No room, a quota, and the limit of one process or file system for a file.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """Raise DiskFull when there is no room for what the block writes, HandlerError when it cannot be written otherwise."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise DiskFull(f"There is no room on the disk for {what}.") from exc
        raise HandlerError(f"{what} cannot be written: {exc.strerror}.") from exc
