"""A Service and its ComfyUI: started, warmed up, stopped."""

import atexit
import logging
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

from handler import pipeline
from handler.comfyui import stale_process
from handler.comfyui.admission import Admission
from handler.comfyui.process import ComfyProcess
from handler.errors import ComfyCrashed, ComfyError, ComfyUnreachable, HandlerError, ServerStopped
from handler.manifest import install
from handler.manifest.schema import load_manifest
from handler.models import search
from handler.service import Service
from handler.settings import BadSettings, Settings
from handler.ticket import Ticket

logger = logging.getLogger(__name__)

_GUARD_INTERVAL_S = 5.0


class Lifecycle:
    """What a door has: a Service, and the ComfyUI process where it is ours.

    `warm` says that the warm-up has been run once, `ready` that it has been run on the ComfyUI that is there now.
    `on_exit` is called with an exit code when ComfyUI ends by itself, for good.
    """

    def __init__(self, settings: Settings, on_exit: Callable[[int], None] = lambda _: None) -> None:
        self.service = Service.of(settings)
        load_manifest(settings)
        self.process = ComfyProcess(
            settings, on_end=self._line.pause, on_exit=self._gave_up, on_restart=self._restarted
        )
        self.warm = False
        self._on_exit = on_exit
        self._stopped = threading.Event()
        # The first warm-up has succeeded, or there will be none: then `_failure` may say why.
        self._decided = threading.Event()
        self._failure: HandlerError | None = None
        # What the line's `breaks` was when ComfyUI answered for the first time: only one that has can hang.
        self._answered: int | None = None

    @property
    def ready(self) -> bool:
        return self.warm and self._line.is_open

    @property
    def _line(self) -> Admission:
        return self.service.comfy.line

    def start(self) -> None:
        """Install the manifest, bring ComfyUI up, run the warm-up graph.

        Raises HandlerError or BadSettings, with ComfyUI stopped again.
        """
        self._line.pause()
        self.service.start()
        try:
            self._launch()
            self._first_warm_up()
        except (HandlerError, BadSettings):
            self.stop()
            raise
        install.apply_after_start(self.service.settings, self.service.models)

    def wait_for_restart(self) -> None:
        """While ComfyUI is being started anew: wait until it is warm, as long as a start may take."""
        self._line.wait_open(self.service.settings.startup_timeout_s)

    def stop(self) -> None:
        """End ComfyUI, and what is still in it or waits for it."""
        self.warm = False
        self._stopped.set()
        self._decided.set()
        self._line.end(ServerStopped)
        self.process.stop()
        self.service.stop()

    def _launch(self) -> None:
        comfy, settings = self.service.comfy, self.service.settings
        if settings.starts_comfyui:
            stale_process.end_stale_process(settings)
            if comfy.alive():
                logger.warning("a ComfyUI answers at %s already and is used; none is started", comfy.url)
                return
        install.apply_before_start(settings, self.service.models)
        search.prepare(settings)
        if settings.starts_comfyui:
            # We hear of its end, and look whether it hangs.
            comfy.patience_s = math.inf
            self.process.start()
            threading.Thread(target=self._guard, name="guard", daemon=True).start()

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
        """Warm up the ComfyUI that has just been started, and let prompts in. Raises ComfyCrashed if it ends meanwhile."""
        breaks = self._line.generation
        try:
            self.process.wait(self.service.comfy)
            self._answered = breaks
            self._warm_up()
        except HandlerError as exc:
            if self._line.generation != breaks and not isinstance(exc, ComfyCrashed):
                raise ComfyCrashed("ComfyUI ended while it started.") from exc
            raise
        self.warm = not self._stopped.is_set()
        if not self._line.resume(breaks):
            raise ComfyCrashed("ComfyUI ended right after its warm-up.")
        self._decided.set()

    def _restarted(self) -> None:
        """Warm a new ComfyUI up. One that cannot be warmed up is as good as ended, and is started anew as well."""
        try:
            self._bring_up()
        except ComfyCrashed:
            logger.info("the restarted ComfyUI has ended as well")
        except HandlerError as exc:
            logger.error("the restarted ComfyUI is of no use: %s", exc)
            if self.warm:
                self.process.kill()
                return
            self._failure = exc
            self._decided.set()

    def _gave_up(self, code: int) -> None:
        self._line.end(lambda: ComfyCrashed("ComfyUI ended, and is not started anew."))
        self._decided.set()
        if self.warm:
            self._on_exit(code)

    def _guard(self) -> None:
        """Kill a ComfyUI that lives and answers nothing any more: its end is something that can be dealt with."""
        comfy, limit = self.service.comfy, self.service.settings.comfyui_hang_timeout_s
        while limit and not self._stopped.wait(min(_GUARD_INTERVAL_S, limit / 4)):
            if self._answered == comfy.line.generation and not comfy.alive() and comfy.silent_s >= limit:
                logger.error("ComfyUI has answered nothing for %g s (COMFYUI_HANG_TIMEOUT_S) and is killed", limit)
                self._answered = None
                self.process.kill()

    def _warm_up(self) -> None:
        graph = self.service.warmup_prompt
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
    """Run an event, `{"id"?, "input": {...}}`, with the settings of the environment. The input is one of

    * `{"prompt": graph, ...}`: a graph in ComfyUI's API format;
    * `{"workflow": "flux/txt2img", "input": {...}, ...}`: a route under WORKFLOW_DIR and its fields;

    with the options of the HTTP API beside it (`id`, `convert_output`, `timeout_s`). The answer holds `id`, `prompt`,
    `images`, `filenames`, `outputs`, `stats`, and `input` for a workflow. Raises HandlerError.

    The first call brings ComfyUI up where it is ours and not running yet; it is stopped when the interpreter exits.
    """
    return pipeline.run(event, _default().service)


_lock = threading.Lock()
_hosts: list[Lifecycle] = []


def _default() -> Lifecycle:
    with _lock:
        if not _hosts:
            host = Lifecycle(Settings.from_environ())
            host.start()
            atexit.register(host.stop)
            _hosts.append(host)
        return _hosts[0]
