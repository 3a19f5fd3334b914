"""`python -m handler.manifest FILE`: checks a manifest and says what it does; with --build installs it."""

import argparse
import logging
import sys
from collections.abc import Collection
from pathlib import Path

from pydantic import SecretStr

from handler.errors import HandlerError
from handler.manifest import custom_nodes
from handler.manifest.install import install, steps
from handler.manifest.schema import Manifest, ModelsOfManifest, read_manifest
from handler.models import ModelCache
from handler.settings import BadSettings, Settings
from handler.urls import redact_url

logger = logging.getLogger(__name__)


def _select(manifest: Manifest, only: Collection[str], settings: Settings) -> Manifest:
    """Only the named parts of a manifest. A model of `before_start` is named by its file name. Raises BadSettings."""
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
    parts = {part: getattr(manifest, part) for part in lists if part in only}
    return Manifest(**parts, models=ModelsOfManifest(before_start=models))


def main(arguments: list[str] | None = None) -> int:
    """Check a manifest and say what it does; with --build do it."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    try:
        settings = _with_token(Settings.from_environ(), given.token_file)
        manifest = read_manifest(given.file, settings)
        logger.info("ComfyUI is in %s, its models are in %s", settings.comfy_home, settings.model_dir)
        if given.only is not None:
            manifest = _select(manifest, given.only, settings)
        if given.build:
            install(manifest, settings, ModelCache(settings))
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
        help="only apt, pip, custom_nodes, models, or one model by its file name: an image layer for each",
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
    for what, _ in steps(manifest, settings, ModelCache(settings)):
        logger.info("%s", what)
    for model in manifest.models.after_start:
        logger.info("after the start: model %s from %s", model.path(settings), redact_url(model.url))


if __name__ == "__main__":
    sys.exit(main())
