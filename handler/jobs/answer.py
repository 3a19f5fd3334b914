"""The answer to a job: its outputs described, small enough for the platform."""

import time

from handler import json_codec
from handler.errors import ResultTooLarge
from handler.jobs.delivery import Delivered, upload_outputs
from handler.jobs.job import Produced
from handler.jobs.outputs import describe_output
from handler.schemas import ComfyExecution, Result, Stats
from handler.service import Service

_MB = 1_000_000


def build_result(produced: Produced, delivered: Delivered, service: Service) -> Result:
    """The answer, within MAX_RESULT_SIZE_MB: files that are too large for it go to the bucket, if there is one.

    Raises DeliveryError, after which the outputs must be kept, or ResultTooLarge.
    """
    result = _describe(produced, delivered)
    limit = service.settings.max_result_size_mb
    if not limit or (size := _size_mb(result)) <= limit:
        return result
    bucket = produced.job.bucket
    if bucket and not delivered.uploaded and not delivered.errors:
        result = _describe(produced, upload_outputs(produced, bucket, service))
        if _size_mb(result) <= limit:
            return result
    raise _too_large(produced, size, limit, delivered.errors or [])


def _describe(produced: Produced, delivered: Delivered) -> Result:
    job = produced.job
    fields = {
        **job.request.echo(),
        "prompt": job.graph,
        "id": job.request.id,
        "images": delivered.images,
        "filenames": [file.filename for file in produced.files],
        "outputs": [describe_output(output, job.graph) for output in produced.outputs],
        "stats": _stats(produced),
        "errors": delivered.errors,
        "uploaded": delivered.uploaded,
        **job.fields,
    }
    return job.request.result_type.model_validate(fields)


def _stats(produced: Produced) -> Stats:
    times, execution, delivered = produced.times, produced.execution, time.monotonic()
    return Stats(
        comfy_execution=ComfyExecution.of(
            execution.entry["status"]["messages"], execution.node_started, execution.node_ended
        ),
        preprocess_time=_ms(times.received, times.prepared),
        queue_time=_ms(times.submitted, times.admitted),
        comfy_round_trip_time=_ms(times.admitted, times.finished),
        postprocess_time=_ms(times.finished, times.converted),
        upload_time=_ms(times.converted, delivered),
        total_time=_ms(times.received, delivered),
    )


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1000, 1)


def _size_mb(result: Result) -> float:
    return len(json_codec.encode(result.answer())) / _MB


def _too_large(produced: Produced, size: float, limit: float, errors: list[str]) -> ResultTooLarge:
    files = ", ".join(f"{file.filename} {file.size / _MB:.1f} MB" for file in produced.files)
    return ResultTooLarge(
        f"The answer has {size:.1f} MB, over the limit of {limit:g} MB (MAX_RESULT_SIZE_MB), with {files}. Have the "
        "outputs uploaded (BUCKET_ENDPOINT_URL, or `s3` in the request), or make them smaller with `convert_output`."
        + "".join(f" {error}" for error in errors)
    )
