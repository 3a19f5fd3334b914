"""Give the outputs to the caller: as base64 in the answer, or uploaded."""

import math
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import pybase64

from handler import storage
from handler.errors import DeliveryError, DeliveryTimeout
from handler.jobs.outputs import Output
from handler.net.deadline import within
from handler.schemas.credentials import Auth
from handler.schemas.uploads import Upload
from handler.settings import Settings

_AT_ONCE = 4
# For what was cut off at the deadline to come back.
_LAST_MOMENT_S = 2.0


def encode_files(outputs: list[Output]) -> list[str]:
    """Every output file as base64, in order. Texts are no files; the answer's `outputs` holds them."""
    return [pybase64.b64encode_as_string(output.read()) for output in _files(outputs)]


def upload_files(
    outputs: list[Output],
    upload: Upload,
    settings: Settings,
    auth_for: Callable[[str], Auth | None],
    *,
    deadline: float = math.inf,
) -> list[str]:
    """The URLs of the output files, in order, once they are all uploaded, some at a time.

    Raises DeliveryError when one of them cannot be, or not within UPLOAD_TIMEOUT_S, and DeliveryTimeout when not before the
    deadline, in seconds of time.monotonic; the others may be there then.
    """
    store = storage.store_for_upload(upload, settings)
    end = min(time.monotonic() + settings.upload_timeout_s, deadline)

    def one(output: Output) -> str:
        name, mime_type = str(output.filename), output.mime_type
        with within(end), output.open() as content:
            return store.store(upload, name, content, size=output.size, mime_type=mime_type, auth_for=auth_for)

    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="upload")
    uploads = [pool.submit(one, output) for output in _files(outputs)]
    last_moment = end + _LAST_MOMENT_S
    wait(uploads, last_moment - time.monotonic(), FIRST_EXCEPTION)
    pool.shutdown(wait=False, cancel_futures=True)
    # Not without an end either: there are libraries that sleep before they try again.
    _, late = wait(uploads, max(0.0, last_moment - time.monotonic()))
    try:
        if late:
            raise TimeoutError
        return [each.result() for each in uploads]
    except TimeoutError as exc:
        if end == deadline:
            raise DeliveryTimeout("The prompt's time was over before its outputs were uploaded.") from exc
        raise DeliveryError(f"The upload took longer than {settings.upload_timeout_s:g} s (UPLOAD_TIMEOUT_S).") from exc


def _files(outputs: list[Output]) -> list[Output]:
    return [output for output in outputs if output.filename is not None]
