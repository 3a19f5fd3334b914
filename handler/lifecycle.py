"""The life of a service and its ComfyUI: start, warm-up, restart, stop."""

import atexit
import logging
import math
import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from handler import pipeline
from handler.comfyui import Admission, ComfyProcess, stale_process
from handler.errors import ComfyCrashed, ComfyError, ComfyUnreachable, HandlerError, ServerStopped
from handler.manifest import apply_after_start, apply_before_start, load_manifest
from handler.models import folders, log_volumes
from handler.service import Service
from handler.settings import BadSettings, Settings
from handler.ticket import Ticket

logger = logging.getLogger(__name__)

_WATCHDOG_INTERVAL_S = 5.0


class Lifecycle:
    """What an adapter has: a Service, and the ComfyUI process where it is ours to start.

    `warm` says that the warm-up graph has run once, `ready` that it has run on the ComfyUI that is there now. `on_exit` is called
    with an exit code when ComfyUI has ended by itself and is not restarted.
    """

    def __init__(self, settings: Settings, on_exit: Callable[[int], None] = lambda _: None) -> None:
        """Raises BadSettings or BadWorkflow."""
        self.service = Service.load(settings)
        load_manifest(settings)
        self.process = ComfyProcess(
            settings, on_end=self._admission.pause, on_exit=self._gave_up, on_restart=self._restarted
        )
        # All later prompts of this ComfyUI would fail as well.
        self.service.comfy.on_gpu_lost = self.process.kill
        self.warm = False
        self._on_exit = on_exit
        self._stopped = threading.Event()
        # Set when the first warm-up has succeeded, or there will be none: then `_failure` may say why.
        self._decided = threading.Event()
        self._failure: HandlerError | None = None
        # The generation of the ComfyUI that has answered: one that never has is still starting, and does not hang.
        self._answered: int | None = None

    @property
    def ready(self) -> bool:
        return self.warm and self._admission.is_open

    @property
    def _admission(self) -> Admission:
        return self.service.comfy.admission

    def start(self) -> None:
        """Install the manifest, start ComfyUI, run the warm-up graph.

        Raises HandlerError or BadSettings, with ComfyUI stopped again.
        """
        self._admission.pause()
        self.service.start()
        try:
            self._launch()
            self._first_warm_up()
        except (HandlerError, BadSettings):
            self.stop()
            raise
        apply_after_start(self.service.settings, self.service.models)

    def wait_for_restart(self) -> None:
        """While ComfyUI restarts: wait until it is warm, as long as a start may take."""
        self._admission.wait_open(self.service.settings.startup_timeout_s)

    def stop_if_hanging(self) -> None:
        """End a ComfyUI that does not answer: it would neither give back its prompts nor end at a signal."""
        if not self.service.comfy.alive():
            self.process.stop(grace_s=0)

    def stop(self) -> None:
        """End ComfyUI, and the prompts in it or waiting for it."""
        self.warm = False
        self._stopped.set()
        self._decided.set()
        self._admission.close(ServerStopped)
        self.process.stop()
        self.service.stop()

    def _launch(self) -> None:
        comfy, settings = self.service.comfy, self.service.settings
        if settings.starts_comfyui:
            stale_process.end_stale_process(settings)
            if comfy.alive():
                logger.warning("a ComfyUI answers at %s already and is used; none is started", comfy.url)
                return
        apply_before_start(settings, self.service.models)
        folders.make_model_dir(settings)
        log_volumes(settings)
        if settings.starts_comfyui:
            # The end of the process is noticed at once, and the watchdog looks whether it hangs.
            comfy.hang_timeout_s = math.inf
            self.process.start()
            threading.Thread(target=self._watch_for_hang, name="watchdog", daemon=True).start()

    def _first_warm_up(self) -> None:
        try:
            self._bring_up()
        except ComfyCrashed:
            if not self.service.settings.always_restart_comfyui:
                raise
            self._decided.wait()
        if self._failure or not self.warm:
            raise self._failure or ComfyUnreachable("ComfyUI was stopped while it started.")

    def _bring_up(self) -> None:
        """Warm up the ComfyUI that was launched last, and admit prompts. Raises ComfyCrashed if it ends meanwhile."""
        generation = self._admission.generation
        try:
            self.process.wait(self.service.comfy)
            self._answered = generation
            self._warm_up()
        except HandlerError as exc:
            if self._admission.generation != generation and not isinstance(exc, ComfyCrashed):
                raise ComfyCrashed("ComfyUI ended while it started.") from exc
            raise
        self.warm = not self._stopped.is_set()
        if not self._admission.resume(generation):
            raise ComfyCrashed("ComfyUI ended right after its warm-up.")
        self._decided.set()

    def _restarted(self) -> None:
        """Warm up a restarted ComfyUI. One that cannot be warmed up is restarted once more."""
        try:
            self._bring_up()
        except ComfyCrashed:
            logger.info("the restarted ComfyUI has ended as well")
        except HandlerError as exc:
            logger.error("the restarted ComfyUI cannot be used: %s", exc)
            if self.warm:
                self.process.kill()
                return
            self._failure = exc
            self._decided.set()

    def _gave_up(self, code: int) -> None:
        self._admission.close(lambda: ComfyCrashed("ComfyUI ended, and is not restarted."))
        self._decided.set()
        if self.warm:
            self._on_exit(code)

    def _watch_for_hang(self) -> None:
        """Kill a ComfyUI that runs and answers nothing any more: its end can be dealt with."""
        comfy, limit = self.service.comfy, self.service.settings.comfyui_hang_timeout_s
        while limit and not self._stopped.wait(min(_WATCHDOG_INTERVAL_S, limit / 4)):
            if self._answered == self._admission.generation and not comfy.alive() and comfy.silent_s >= limit:
                logger.error("ComfyUI has answered nothing for %g s (COMFYUI_HANG_TIMEOUT_S) and is killed", limit)
                self._answered = None
                self.process.kill()

    def _warm_up(self) -> None:
        graph = self.service.warmup_graph
        if graph is None:
            return
        logger.info("running the warm-up prompt")
        try:
            job = pipeline.prepare({"input": {"prompt": graph}}, self.service, Ticket(urgent=True))
            result = pipeline.execute(job, self.service)
        except HandlerError as exc:
            raise ComfyError(f"The warm-up prompt failed: {exc.message}") from exc
        logger.info("warm after %g ms", result.stats.total_time)


def handler(event: Mapping[str, Any]) -> dict[str, Any]:
    """Run an event, `{"id"?, "input": {...}}`, with the settings of the environment.

    The input is one of three dialects:

    * `{"prompt": graph, ...}`: a graph in ComfyUI's API format;
    * `{"workflow": "flux/txt2img", "input": {...}, ...}`: a route under WORKFLOW_DIR and its fields;
    * `{"workflow": graph, "images": [...], ...}`: what runpod-workers/worker-comfyui takes.

    The options of the HTTP API stand beside it (`id`, `convert_output`, `timeout_s`, `webhook`, `webhook_v2`, an upload,
    `credentials`). The answer is a dict of plain JSON values: `id`, `prompt`, `images`, `filenames`, `outputs`, `stats`, and
    `input` for a workflow; or worker-comfyui's `images`. Raises HandlerError.

    The first call starts ComfyUI where that is ours to do; it is stopped when the interpreter exits.
    """
    with _starting:
        service = _default().service
    return pipeline.run(event, service)


_starting = threading.Lock()


@cache
def _default() -> Lifecycle:
    """The lifecycle of this process, which the first call starts."""
    lifecycle = Lifecycle(Settings.from_environ())
    lifecycle.start()
    atexit.register(lifecycle.stop)
    return lifecycle
