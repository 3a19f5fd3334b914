"""Give the outputs to the caller: as base64 in the answer, or uploaded."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pybase64

from handler import storage
from handler.credentials import Auth
from handler.event import Upload
from handler.outputs import Output
from handler.settings import Settings

_AT_ONCE = 4


def inline(outputs: list[Output]) -> list[str]:
    """Every output file as base64, in order. Texts are no files; the answer's `outputs` holds them."""
    return [pybase64.b64encode_as_string(output.read()) for output in _files(outputs)]


def uploaded(
    outputs: list[Output], upload: Upload, settings: Settings, auth_for: Callable[[str], Auth | None]
) -> list[str]:
    """The URLs of the output files, in order, once they are all uploaded, some at a time.

    Raises DeliveryError when one of them cannot be; the others may be there then.
    """
    store = storage.receiver(upload, settings)

    def one(output: Output) -> str:
        with output.open() as content:
            name, mime_type = str(output.filename), output.mime_type
            return store.store(upload, name, content, size=output.size, mime_type=mime_type, auth_for=auth_for)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="upload") as pool:
        return list(pool.map(one, _files(outputs)))


def _files(outputs: list[Output]) -> list[Output]:
    return [output for output in outputs if output.filename is not None]
