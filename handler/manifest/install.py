"""The manifest: packages, custom nodes and models that an image or a start is to have."""

import argparse
import logging
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from handler.errors import HandlerError
from handler.manifest import custom_nodes
from handler.manifest.packages import apt_installed, masked, pip_installed
from handler.manifest.schema import Manifest, ManifestModel, ModelsOfManifest, loaded, read
from handler.models import folders
from handler.models.cache import Models
from handler.net.guard import shown
from handler.settings import BadSettings, Settings

logger = logging.getLogger(__name__)


def apply_before_start(settings: Settings, models: Models | None = None) -> None:
    """Install what ComfyUI needs before it starts, but for models that a mounted volume holds.

    Raises BadSettings or HandlerError, with one line that names what failed.
    """
    manifest = loaded(settings)
    if manifest:
        _install(_without_mounted(manifest, settings), settings, models or Models(settings))


def _without_mounted(manifest: Manifest, settings: Settings) -> Manifest:
    """Not in `_install`: an image that is built on a machine with a volume must be complete without it."""
    wanted = []
    for model in manifest.models.before_start:
        path = model.path(settings)
        mounted = folders.same_model(path, settings)
        if mounted is None:
            wanted.append(model)
        else:
            logger.info("model %s is not fetched: a volume has %s", path, mounted)
    return manifest.model_copy(update={"models": manifest.models.model_copy(update={"before_start": wanted})})


def apply_after_start(settings: Settings, models: Models) -> threading.Thread | None:
    """Download the rest in the background. What fails is logged and announced, and ends nothing. Raises BadSettings."""
    manifest = loaded(settings)
    if not manifest or not manifest.models.after_start:
        return None

    def work() -> None:
        for model in manifest.models.after_start:
            try:
                models.installed(model.url, model.path(settings), auth=model.auth, sha256=model.sha256)
            except HandlerError as exc:
                models.failed(model.url, str(model.path(settings)), exc)
            except Exception:
                logger.exception("%s could not be downloaded: a bug", shown(model.url))

    # A daemon: the end of the process does not wait for it, and the next start goes on where it was.
    thread = threading.Thread(target=work, name="after_start", daemon=True)
    thread.start()
    return thread


def _install(manifest: Manifest, settings: Settings, models: Models) -> None:
    steps = list(_steps(manifest, settings, models))
    for number, (what, step) in enumerate(steps, 1):
        logger.info("[%d/%d] %s", number, len(steps), what)
        step()


def _steps(manifest: Manifest, settings: Settings, models: Models) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is to be done before the start: in words, and as a function."""
    if manifest.apt:
        yield f"apt packages {' '.join(manifest.apt)}", partial(apt_installed, manifest.apt)
    if manifest.pip:
        what = f"pip packages {masked(' '.join(manifest.pip))}"
        yield what, partial(pip_installed, manifest.pip, what, settings)
    for node in manifest.custom_nodes:
        yield f"custom node {shown(node)}", partial(custom_nodes.installed, node, settings)
    for model in manifest.models.before_start:
        path = model.path(settings)
        yield f"model {path} from {shown(model.url)}", partial(_downloaded, model, settings, models)


def _downloaded(model: ManifestModel, settings: Settings, models: Models) -> None:
    path = model.path(settings)
    try:
        models.installed(model.url, path, auth=model.auth, sha256=model.sha256)
    except HandlerError as exc:
        from_hub = model.url.startswith(("hf://", settings.hf_endpoint))
        tokenless = from_hub and not (settings.hf_token or model.auth)
        hint = " No HF_TOKEN is set, and the hub asks for one where a model is gated." if tokenless else ""
        raise HandlerError(f"model {path}: {exc.message}{hint}") from exc


def _narrowed(manifest: Manifest, only: Collection[str], settings: Settings) -> Manifest:
    """No more than the named parts of a manifest. One model of `before_start` goes by its file name. Raises BadSettings."""
    lists = ("apt", "pip", "custom_nodes")
    names = [model.path(settings).name for model in manifest.models.before_start]
    for name in only:
        if name not in (*lists, "models", *names):
            known = ", ".join((*lists, "models", *names))
            raise BadSettings(f"--only {name}: there is no such part or model; there are: {known}")
    models = [
        model
        for model, name in zip(manifest.models.before_start, names, strict=True)
        if name in only or "models" in only
    ]
    kept = {part: getattr(manifest, part) for part in lists if part in only}
    return Manifest(**kept, models=ModelsOfManifest(before_start=models))


def main(arguments: list[str] | None = None) -> int:
    """Check a manifest and say what it does; with --build do it."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    try:
        settings = _with_token(Settings.from_environ(), given.token_file)
        manifest = read(given.file, settings)
        logger.info("ComfyUI is in %s, its models are in %s", settings.comfy_home, settings.model_dir)
        if given.only is not None:
            manifest = _narrowed(manifest, given.only, settings)
        if given.build:
            _install(manifest, settings, Models(settings))
        else:
            _announce(manifest, settings)
        if given.imports:
            custom_nodes.check_imports(settings)
    except (BadSettings, HandlerError) as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m handler.manifest", description=main.__doc__)
    parser.add_argument("file", type=Path, help="a .yaml, .yml or .json file")
    parser.add_argument("--build", action="store_true", help="install packages, custom nodes and before_start models")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="PART",
        help="no more than apt, pip, custom_nodes, models, or one model by its file name: an image layer for each",
    )
    parser.add_argument(
        "--imports", action="store_true", help="then let ComfyUI import its custom nodes, and fail with them"
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        help="the Hugging Face token is read from here if there is such a file: a build secret",
    )
    return parser


def _with_token(settings: Settings, file: Path | None) -> Settings:
    try:
        token = file.read_text(encoding="utf-8").strip() if file and file.exists() else ""
    except (OSError, UnicodeDecodeError) as exc:
        raise BadSettings(f"--token-file {file}: it cannot be read: {type(exc).__name__}") from exc
    return settings.model_copy(update={"hf_token": SecretStr(token)}) if token else settings


def _announce(manifest: Manifest, settings: Settings) -> None:
    for what, _ in _steps(manifest, settings, Models(settings)):
        logger.info("%s", what)
    for model in manifest.models.after_start:
        logger.info("after the start: model %s from %s", model.path(settings), shown(model.url))
