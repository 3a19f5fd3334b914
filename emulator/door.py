"""The handler behind the HTTP API: its ComfyUI's life, and the threads that its work runs on."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio
import orjson
from anyio import to_thread

from handler import HandlerError, Host, Job, Service, Settings, execute, prepare
from handler.errors import BadRequest

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Prompts that wait for the GPU hold a thread each, up to this many; the rest waits for a thread, in order of arrival.
_EXECUTE_THREADS = 32
_PREPARE_THREADS = 16
_PROBE_THREADS = 4


class Door:
    """What the routes need. `on_warm` and `on_end` are told when it is ready, and when it is over by itself."""

    def __init__(
        self, settings: Settings, on_warm: Callable[[], None] = lambda: None, on_end: Callable[[], None] = lambda: None
    ) -> None:
        self.host = Host(settings, on_exit=self._comfyui_ended)
        self.pending = 0
        self.exit_code = 0
        self._on_warm = on_warm
        self._on_end = on_end
        self._closing = False
        # Not AnyIO's default limiter: what waits in these must not delay a probe.
        self._preparing = anyio.CapacityLimiter(_PREPARE_THREADS)
        self._executing = anyio.CapacityLimiter(_EXECUTE_THREADS)
        self._probing = anyio.CapacityLimiter(_PROBE_THREADS)
        self._starter = threading.Thread(target=self._start, name="start", daemon=True)

    @property
    def service(self) -> Service:
        return self.host.service

    def open(self) -> None:
        """Bring ComfyUI up in the background; the server listens meanwhile, and /health says that it is not healthy."""
        self._starter.start()

    async def close(self) -> None:
        self._closing = True
        await to_thread.run_sync(self.host.stop, limiter=self._probing)

    async def ask(self, question: Callable[[], T]) -> T:
        """Something short about ComfyUI, on a thread that no prompt holds."""
        return await to_thread.run_sync(question, limiter=self._probing)

    async def run(self, body: bytes, workflow: str | None) -> bytes:
        """The answer to a request body, as JSON."""
        self.pending += 1
        try:
            job = await to_thread.run_sync(self._prepared, body, workflow, limiter=self._preparing)
            return await to_thread.run_sync(self._executed, job, limiter=self._executing)
        finally:
            self.pending -= 1

    def _prepared(self, body: bytes, workflow: str | None) -> Job:
        given = _parsed(body)
        # The route says which dialect it is; the other one's field is unknown here, and ignored like any unknown field.
        if workflow is None:
            request = {name: value for name, value in given.items() if name != "workflow"}
        else:
            request = {name: value for name, value in given.items() if name != "prompt"} | {"workflow": workflow}
        return prepare({"input": request}, self.service)

    def _executed(self, job: Job) -> bytes:
        return orjson.dumps(execute(job, self.service).answer())

    def _start(self) -> None:
        try:
            self.host.start()
        except HandlerError as exc:
            self._end(1, f"cannot start: {exc}")
        except Exception:
            logger.exception("cannot start")
            self._end(1, "cannot start: a bug")
        else:
            self._on_warm()

    def _comfyui_ended(self, code: int) -> None:
        self._end(code or 1, "ComfyUI ended, and so does this server")

    def _end(self, code: int, reason: str) -> None:
        if not self._closing:
            logger.error("%s", reason)
            self.exit_code = code
            self._on_end()


def _parsed(body: bytes) -> Mapping[str, Any]:
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise BadRequest(f"The body is not valid JSON: {exc}.") from exc
    if not isinstance(given, dict):
        raise BadRequest("The body must be a JSON object.")
    return given
