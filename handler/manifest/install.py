"""Installs what the manifest asks for: packages, custom nodes and models."""

import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial

from handler.errors import HandlerError
from handler.manifest.custom_nodes import install_node
from handler.manifest.packages import install_apt, install_pip, mask_urls
from handler.manifest.schema import Manifest, ManifestModel, load_manifest
from handler.models import ModelCache, folders
from handler.settings import Settings
from handler.urls import redact_url

logger = logging.getLogger(__name__)


def apply_before_start(settings: Settings, models: ModelCache | None = None) -> None:
    """Install what ComfyUI needs before it starts, except models that are on a mounted volume.

    Raises BadSettings or HandlerError, in one line that names what failed.
    """
    manifest = load_manifest(settings)
    if manifest:
        install(_without_mounted(manifest, settings), settings, models or ModelCache(settings))


def _without_mounted(manifest: Manifest, settings: Settings) -> Manifest:
    """Not a part of `install`: an image that is built on a machine with a volume must be complete without it."""
    wanted = []
    for model in manifest.models.before_start:
        path = model.path(settings)
        mounted = folders.find_on_volumes(path, settings)
        if mounted is None:
            wanted.append(model)
        else:
            logger.info("model %s is not fetched: a volume has %s", path, mounted)
    return manifest.model_copy(update={"models": manifest.models.model_copy(update={"before_start": wanted})})


def apply_after_start(settings: Settings, models: ModelCache) -> threading.Thread | None:
    """Download the rest in the background. A failure is logged and announced, and the others continue. Raises BadSettings."""
    manifest = load_manifest(settings)
    if not manifest or not manifest.models.after_start:
        return None

    def work() -> None:
        for model in manifest.models.after_start:
            try:
                models.install(model.url, model.path(settings), auth=model.auth, sha256=model.sha256)
            except HandlerError as exc:
                models.announce_failure(model.url, str(model.path(settings)), exc)
            except Exception:
                logger.exception("%s could not be downloaded: a bug", redact_url(model.url))

    # A daemon: the process does not wait for it at its end, and the next start resumes.
    thread = threading.Thread(target=work, name="after_start", daemon=True)
    thread.start()
    return thread


def install(manifest: Manifest, settings: Settings, models: ModelCache) -> None:
    """Do everything that comes before the start. Raises HandlerError, in one line that names what failed."""
    to_do = list(steps(manifest, settings, models))
    for number, (what, step) in enumerate(to_do, 1):
        logger.info("[%d/%d] %s", number, len(to_do), what)
        step()


def steps(manifest: Manifest, settings: Settings, models: ModelCache) -> Iterator[tuple[str, Callable[[], object]]]:
    """The steps before the start: each in words, and as a function."""
    if manifest.apt:
        yield f"apt packages {' '.join(manifest.apt)}", partial(install_apt, manifest.apt)
    if manifest.pip:
        what = f"pip packages {mask_urls(' '.join(manifest.pip))}"
        yield what, partial(install_pip, manifest.pip, what, settings)
    for node in manifest.custom_nodes:
        yield f"custom node {redact_url(node)}", partial(install_node, node, settings)
    for model in manifest.models.before_start:
        path = model.path(settings)
        yield f"model {path} from {redact_url(model.url)}", partial(_install_model, model, settings, models)


def _install_model(model: ManifestModel, settings: Settings, models: ModelCache) -> None:
    path = model.path(settings)
    try:
        models.install(model.url, path, auth=model.auth, sha256=model.sha256)
    except HandlerError as exc:
        from_hub = model.url.startswith(("hf://", settings.hf_endpoint))
        tokenless = from_hub and not (settings.hf_token or model.auth)
        hint = " No HF_TOKEN is set, and the hub asks for one where a model is gated." if tokenless else ""
        raise HandlerError(f"model {path}: {exc.message}{hint}") from exc
