"""Gives the output files to the caller: as base64 in the answer, or uploaded."""

import math
import time
from concurrent.futures import FIRST_EXCEPTION, wait
from dataclasses import dataclass

import pybase64

from handler import net, storage
from handler.errors import DeliveryError, DeliveryTimeout, HandlerError
from handler.jobs.job import Produced
from handler.jobs.outputs import Output
from handler.schemas import Upload
from handler.service import Service
from handler.settings import Settings
from handler.threads import ThreadPool
from handler.urls import redact_url

_UPLOADS_AT_ONCE = 4
# For uploads that were cut off at the deadline to return.
_RETURN_S = 2.0


@dataclass(frozen=True)
class Delivered:
    """The base64 or the URLs of the output files, in order, and what did not go as asked."""

    images: list[str]
    uploaded: bool
    errors: list[str] | None = None


def deliver_outputs(produced: Produced, service: Service) -> Delivered:
    """Upload the output files where the request says so, otherwise encode them. Raises DeliveryError: then they must be kept."""
    job = produced.job
    if job.request.upload:
        return upload_outputs(produced, job.request.upload, service)
    if job.bucket and job.request.uses_bucket:
        try:
            return upload_outputs(produced, job.bucket, service)
        except DeliveryError as exc:
            # The answer is the better place: nobody can fetch what is kept on a worker.
            return Delivered(_encode(produced.files), uploaded=False, errors=[exc.message])
    return Delivered(_encode(produced.files), uploaded=False)


def upload_outputs(produced: Produced, upload: Upload, service: Service) -> Delivered:
    """Upload the output files. Raises DeliveryError: then they must be kept, and the message says where."""
    job, files = produced.job, produced.files
    try:
        urls = upload_files(files, upload, service.settings, job.request.auth_for, deadline=job.deadline)
    except HandlerError as exc:
        names = ", ".join(str(file.filename) for file in files)
        # Whatever a store reports, by now the outputs are worth keeping.
        kind = type(exc) if isinstance(exc, DeliveryError) else DeliveryError
        raise kind(f"{exc.message} The outputs are kept in the output folder, in {job.folder}: {names}.") from exc
    for url, file in zip(urls, files, strict=True):
        facts = {"id": job.request.id, "url": redact_url(url), "size": file.size}
        service.system_events.emit("file_uploaded", facts)
    return Delivered(urls, uploaded=True)


def _encode(files: list[Output]) -> list[str]:
    return [pybase64.b64encode_as_string(file.read()) for file in files]


def upload_files(
    files: list[Output], upload: Upload, settings: Settings, auth_for: storage.AuthFor, *, deadline: float = math.inf
) -> list[str]:
    """The URLs of output files, in order, once they are all uploaded, some at a time.

    Raises DeliveryError when one of them cannot be, or not within UPLOAD_TIMEOUT_S, and DeliveryTimeout when not before the
    deadline, in seconds of time.monotonic; the others may be there then.
    """
    store = storage.store_for_upload(upload, settings)
    end = min(time.monotonic() + settings.upload_timeout_s, deadline)

    def store_file(file: Output) -> str:
        name = str(file.filename)
        with net.deadline.within(end), file.open() as content:
            return store.store(upload, name, content, size=file.size, mime_type=file.mime_type, auth_for=auth_for)

    pool = ThreadPool(_UPLOADS_AT_ONCE, "upload")
    uploads = [pool.submit(store_file, file) for file in files]
    wait(uploads, end + _RETURN_S - time.monotonic(), FIRST_EXCEPTION)
    pool.shutdown(wait=False, cancel_futures=True)
    # Not without an end either: there are libraries that sleep before they try again.
    _, late = wait(uploads, max(0.0, end + _RETURN_S - time.monotonic()))
    try:
        if late:
            raise TimeoutError
        return [each.result() for each in uploads]
    except TimeoutError as exc:
        if end == deadline:
            raise DeliveryTimeout("The prompt's time was over before its outputs were uploaded.") from exc
        raise DeliveryError(f"The upload took longer than {settings.upload_timeout_s:g} s (UPLOAD_TIMEOUT_S).") from exc
