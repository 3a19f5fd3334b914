"""From a job's outputs to its answer: delivered, small enough for the platform, described."""

import time
from dataclasses import dataclass

from handler.comfyui.client import Execution
from handler.errors import DeliveryError, HandlerError, ResultTooLarge
from handler.jobs import delivery, outputs
from handler.jobs.job import Job
from handler.jobs.outputs import Output
from handler.schemas.result import ComfyExecution, Result, Stats, encoded
from handler.schemas.uploads import Upload
from handler.schemas.worker_comfyui import WorkerRequest, WorkerResult
from handler.service import Service
from handler.urls import redact_url

_MB = 1_000_000


def made(job: Job, done: list[Output], execution: Execution, marks: tuple[float, ...], service: Service) -> Result:
    """The answer to a job. `marks` are the moments at which it was received, prepared, put into the line, let in, finished
    and converted, in seconds of time.monotonic.

    Raises DeliveryError, after which the outputs must stay, or ResultTooLarge.
    """
    return _Answer(job, done, execution, marks, service).result()


@dataclass(frozen=True)
class _Delivered:
    """The base64 or the URLs of the output files, and what did not go as asked."""

    images: list[str]
    uploaded: bool
    errors: list[str] | None = None


@dataclass(frozen=True)
class _Answer:
    job: Job
    done: list[Output]
    execution: Execution
    marks: tuple[float, ...]
    service: Service

    def result(self) -> Result:
        delivered = self._delivered()
        result = self._described(delivered)
        limit = self.service.settings.max_result_size_mb
        if not limit or (size := _size_mb(result)) <= limit:
            return result
        if self.job.bucket and not delivered.uploaded and not delivered.errors:
            result = self._described(_Delivered(self._uploaded(self.job.bucket), uploaded=True))
            if _size_mb(result) <= limit:
                return result
        raise self._too_large(size, limit, delivered.errors or [])

    @property
    def _filenames(self) -> list[str]:
        return [output.filename for output in self.done if output.filename is not None]

    def _delivered(self) -> _Delivered:
        job = self.job
        if job.request.upload:
            return _Delivered(self._uploaded(job.request.upload), uploaded=True)
        if job.bucket and isinstance(job.request, WorkerRequest):
            try:
                return _Delivered(self._uploaded(job.bucket), uploaded=True)
            except DeliveryError as exc:
                # The answer is the better place: nobody can fetch what is kept on a worker.
                return _Delivered(delivery.encode_files(self.done), uploaded=False, errors=[exc.message])
        return _Delivered(delivery.encode_files(self.done), uploaded=False)

    def _uploaded(self, upload: Upload) -> list[str]:
        job, files = self.job, [output for output in self.done if output.filename is not None]
        try:
            urls = delivery.upload_files(
                self.done, upload, self.service.settings, job.request.auth_for, deadline=job.deadline
            )
        except HandlerError as exc:
            names = ", ".join(map(str, self._filenames))
            # Whatever a store has to say, by now the outputs are worth keeping.
            kind = type(exc) if isinstance(exc, DeliveryError) else DeliveryError
            raise kind(f"{exc.message} The outputs are kept in the output folder, in {job.attempt}: {names}.") from exc
        for url, file in zip(urls, files, strict=True):
            self.service.events.emit("file_uploaded", {"id": job.request.id, "url": redact_url(url), "size": file.size})
        return urls

    def _too_large(self, size: float, limit: float, errors: list[str]) -> ResultTooLarge:
        files = ", ".join(f"{file.filename} {file.size / _MB:.1f} MB" for file in self.done if file.filename)
        return ResultTooLarge(
            f"The answer has {size:.1f} MB, over the limit of {limit:g} MB (MAX_RESULT_SIZE_MB), with {files}. Have the "
            "outputs uploaded (BUCKET_ENDPOINT_URL, or `s3` in the request), or make them smaller with `convert_output`."
            + "".join(f" {error}" for error in errors)
        )

    def _described(self, delivered: _Delivered) -> Result:
        job, done = self.job, self.done
        fields = {
            **job.request.echo(),
            "prompt": job.graph,
            "id": job.request.id,
            "images": delivered.images,
            "filenames": self._filenames,
            "outputs": [outputs.describe_output(output, job.graph) for output in done],
            "stats": self._stats(),
            "errors": delivered.errors,
            **job.fields,
        }
        if isinstance(job.request, WorkerRequest):
            return WorkerResult.model_validate(fields | {"uploaded": delivered.uploaded})
        return Result.model_validate(fields)

    def _stats(self) -> Stats:
        received, prepared, began, turn, finished, converted = self.marks
        delivered, entry = time.monotonic(), self.execution.entry
        return Stats(
            comfy_execution=ComfyExecution.of(
                entry["status"]["messages"], self.execution.node_started, self.execution.node_ended
            ),
            preprocess_time=ms(received, prepared),
            queue_time=ms(began, turn),
            comfy_round_trip_time=ms(turn, finished),
            postprocess_time=ms(finished, converted),
            upload_time=ms(converted, delivered),
            total_time=ms(received, delivered),
        )


def ms(start: float, end: float) -> float:
    return round((end - start) * 1000, 1)


def _size_mb(result: Result) -> float:
    return len(encoded(result.answer())) / _MB
