"""GET /metrics: queue depth, readiness and finished jobs, for Prometheus."""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from emulator.adapter import Adapter
from handler import HandlerError, Result

_BUCKETS_S = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)


class Metrics:
    """The metrics of one server, and their endpoint."""

    def __init__(self, adapter: Adapter) -> None:
        self._registry = CollectorRegistry()
        depth = Gauge("comfyui_handler_queue_depth", "Jobs that wait or run.", registry=self._registry)
        depth.set_function(lambda: adapter.pending)
        ready = Gauge("comfyui_handler_ready", "Whether ComfyUI is warm.", registry=self._registry)
        ready.set_function(lambda: float(adapter.lifecycle.ready and not adapter.closing))
        self._jobs = Counter(
            "comfyui_handler_jobs",
            "Finished jobs, by `ok` or the code of their error.",
            ["code"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "comfyui_handler_job_seconds",
            "Duration of successful jobs, waiting included.",
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        adapter.on_done = self._count

    async def metrics(self, _request: Request) -> Response:
        """All metrics as text."""
        return Response(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _count(self, outcome: Result | BaseException) -> None:
        if isinstance(outcome, Result):
            self._jobs.labels("ok").inc()
            self._seconds.observe(outcome.stats.total_time / 1000)
        else:
            self._jobs.labels(outcome.code if isinstance(outcome, HandlerError) else HandlerError.code).inc()
