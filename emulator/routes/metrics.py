"""GET /metrics: what a scaler and a dashboard want to know, for Prometheus."""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from emulator.adapter import Adapter
from handler import HandlerError, Result

_BUCKETS_S = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)


class Metrics:
    """The figures of one server, and the endpoint that shows them."""

    def __init__(self, adapter: Adapter) -> None:
        self._registry = CollectorRegistry()
        depth = Gauge("comfyui_handler_queue_depth", "Jobs that wait or run.", registry=self._registry)
        depth.set_function(lambda: adapter.pending)
        ready = Gauge("comfyui_handler_ready", "Whether there is a warm ComfyUI.", registry=self._registry)
        ready.set_function(lambda: float(adapter.lifecycle.ready and not adapter.closing))
        self._jobs = Counter(
            "comfyui_handler_jobs",
            "Jobs that have ended, by `ok` or the code of their error.",
            ["code"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "comfyui_handler_job_seconds",
            "How long jobs took that ended well, waiting included.",
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        adapter.on_done = self._done

    async def metrics(self, _request: Request) -> Response:
        """All figures as text."""
        return Response(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _done(self, outcome: Result | BaseException) -> None:
        if isinstance(outcome, Result):
            self._jobs.labels("ok").inc()
            self._seconds.observe(outcome.stats.total_time / 1000)
        else:
            self._jobs.labels(outcome.code if isinstance(outcome, HandlerError) else HandlerError.code).inc()
