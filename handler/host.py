"""A Service and its ComfyUI: started, warmed up, stopped."""

import atexit
import importlib
import logging
import threading
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from handler import pipeline
from handler.errors import ComfyError, HandlerError
from handler.process import ComfyProcess
from handler.service import Service
from handler.settings import BadSettings, Settings

logger = logging.getLogger(__name__)


class Host:
    """What a door has: a Service, and the ComfyUI process where it is ours.

    `warm` says that the warm-up has been run once, `ready` that it has been run on the ComfyUI that is there now.
    `on_exit` is called with an exit code when ComfyUI ends by itself, for good.
    """

    def __init__(self, settings: Settings, on_exit: Callable[[int], None] = lambda _: None) -> None:
        self.service = Service.of(settings)
        _manifest().loaded(settings)
        self.process = ComfyProcess(settings, on_exit, self._restarted)
        self.warm = False
        self.ready = False

    def start(self) -> None:
        """Install the manifest, bring ComfyUI up, run the warm-up graph.

        Raises HandlerError or BadSettings, with ComfyUI stopped again.
        """
        comfy, settings = self.service.comfy, self.service.settings
        self.service.start()
        try:
            if settings.starts_comfyui and comfy.alive():
                logger.warning("a ComfyUI answers at %s already and is used; none is started", comfy.url)
            else:
                _manifest().apply_before_start(settings, self.service.models)
                if settings.starts_comfyui:
                    self.process.start()
            self.process.wait(comfy)
            self._warm_up()
        except (HandlerError, BadSettings):
            self.stop()
            raise
        self.warm = self.ready = True
        _manifest().apply_after_start(settings, self.service.models)

    def stop(self) -> None:
        self.warm = self.ready = False
        self.process.stop()
        self.service.stop()

    def _restarted(self) -> None:
        """Warm a new ComfyUI up. One that cannot be warmed up is as good as ended, and is started anew as well."""
        self.ready = False
        try:
            self.process.wait(self.service.comfy)
            self._warm_up()
            self.ready = self.warm
        except HandlerError as exc:
            logger.error("the restarted ComfyUI is of no use: %s", exc)
            self.process.kill()

    def _warm_up(self) -> None:
        graph = self.service.warmup_prompt
        if graph is None:
            return
        logger.info("running the warm-up prompt")
        try:
            result = pipeline.run({"input": {"prompt": graph}}, self.service)
        except HandlerError as exc:
            raise ComfyError(f"The warm-up prompt failed: {exc.message}") from exc
        logger.info("warm after %g ms", result["stats"]["total_time"])


def _manifest() -> ModuleType:
    """Imported late: `python -m handler.manifest` must not find it imported by the package already."""
    return importlib.import_module("handler.manifest")


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
_hosts: list[Host] = []


def _default() -> Host:
    with _lock:
        if not _hosts:
            host = Host(Settings.from_environ())
            host.start()
            atexit.register(host.stop)
            _hosts.append(host)
        return _hosts[0]
