"""Looks for model files: for a model that ComfyUI does not list, and for NETWORK_VOLUME_DEBUG."""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from handler.models import folders
from handler.models.folders import ModelFolder
from handler.settings import Settings

logger = logging.getLogger(__name__)

# A volume may be a slow network disk with anything on it: every search has limits.
_MAX_DEPTH = 6
_MAX_ENTRIES = 50_000
_MAX_SEARCH_S = 2.0
_MAX_REPORT_S = 10.0
_SKIPPED = {"custom_nodes", "node_modules", "site-packages", "venv", "__pycache__"}
# How long one search serves all requests with missing models.
_FRESH_S = 10.0
_MAX_NAMED = 3

FolderPaths = Callable[[], Mapping[str, Sequence[str]]]
"""Asks ComfyUI in which folders it looks for each kind of model; {} when it does not say."""


class ModelSearch:
    """Says where ComfyUI looked for a model, and where else a file of that name is. Safe to use from many threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._fresh_until = 0.0
        self._folder_paths: Mapping[str, Sequence[str]] = {}
        self._found: dict[str, list[Path]] = {}

    def describe(self, kind: str, name: str, folder_paths: FolderPaths) -> str:
        """The rest of a sentence about a missing model, which begins with "; ".

        `kind` is the model folder that the input shows. Empty for a name that cannot be a model's, and when ComfyUI does not
        tell where it looks.
        """
        path = PurePosixPath(name.replace("\\", "/"))
        if path.suffix.lower() not in folders.MODEL_SUFFIXES or ".." in path.parts or path.is_absolute():
            return ""
        with self._lock:
            if time.monotonic() > self._fresh_until:
                self._search(folder_paths)
            looked_in, found_in = self._folder_paths.get(kind, ()), self._found.get(path.name, [])
        if not looked_in:
            return ""
        existing = [folder for folder in looked_in if folders.is_folder(Path(folder))]
        text = f"; ComfyUI looked in {_join(existing or looked_in)}"
        # Not the very place where ComfyUI looked: it will have its reasons.
        places = {Path(os.path.realpath(folder)) / path.parent for folder in looked_in}
        others = [folder for folder in found_in if folder not in places]
        return f"{text}; a file of that name lies in {_join(others[:_MAX_NAMED])}" if others else text

    def _search(self, folder_paths: FolderPaths) -> None:
        self._folder_paths, self._found = folder_paths(), {}
        used = [path for kind, paths in self._folder_paths.items() if kind != "custom_nodes" for path in paths]
        own = [folders.own_models(self._settings), self._settings.model_dir, *folders.volumes(self._settings)]
        for file in walk_files([*map(Path, used), *own], time.monotonic() + _MAX_SEARCH_S):
            if _suffix(file) in folders.MODEL_SUFFIXES:
                self._found.setdefault(file.name, []).append(Path(file.path).parent)
        self._fresh_until = time.monotonic() + _FRESH_S


def _join(paths: Sequence[object]) -> str:
    *others, last = map(str, paths)
    return f"{', '.join(others)} and {last}" if others else last


def _suffix(file: "os.DirEntry[str]") -> str:
    return os.path.splitext(file.name)[1].lower()  # noqa: PTH122 (a Path per file is slow)


def walk_files(roots: Iterable[Path], end: float) -> Iterator["os.DirEntry[str]"]:
    """The files below the roots, upper ones first; links to folders are not followed, unless they are roots themselves.

    It ends at `end` (of time.monotonic), and when there are too many.
    """
    waiting = deque((folder, 0) for folder in dict.fromkeys(os.path.realpath(root) for root in roots))
    seen: set[str] = set()
    entries = 0
    while waiting:
        folder, depth = waiting.popleft()
        if folder in seen:
            continue
        seen.add(folder)
        for entry, is_folder in _entries(folder):
            entries += 1
            if entries > _MAX_ENTRIES or time.monotonic() > end:
                return
            if entry.name.startswith(".") or is_folder is None:
                continue
            if not is_folder:
                yield entry
            elif depth < _MAX_DEPTH and entry.name not in _SKIPPED:
                waiting.append((entry.path, depth + 1))


def _entries(folder: str) -> Iterator[tuple["os.DirEntry[str]", bool | None]]:
    """The entries of a folder, each with whether it is a folder; None for a link to a folder, a socket and the like."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                yield entry, is_folder if is_folder or entry.is_file() else None
    except OSError as exc:
        logger.debug("%s cannot be read: %s", folder, exc.strerror)


def log_volumes(settings: Settings) -> None:
    """Log what the volumes hold, if NETWORK_VOLUME_DEBUG asks for it."""
    if settings.network_volume_debug:
        for line in describe_volumes(settings):
            logger.info("volumes: %s", line)


def describe_volumes(settings: Settings) -> Iterator[str]:
    """What the volumes hold, and what ComfyUI is told about it, in lines."""
    for volume in folders.volumes(settings):
        yield f"{volume} {_state(volume)}"
    found = [folder for folder in folders.model_folders(settings) if folders.is_folder(folder.path)]
    end = time.monotonic() + _MAX_REPORT_S
    kinds = set(folders.kinds_of_folders(settings.comfy_home).values())
    for folder in found:
        yield _describe_folder(folder, folders.suffixes(folder.kind) if folder.kind in kinds else None, end)
    if not found:
        places = ", ".join(f"{layout}/checkpoints" for layout in folders.VOLUME_LAYOUTS)
        yield f"no folder of models was found; they may be {places} and the like, or checkpoints, loras, ... on top"
    text = folders.extra_model_paths(settings)
    yield from ["ComfyUI is told:", *text.splitlines()] if text else ["ComfyUI is told of no further folder"]


def _state(volume: Path) -> str:
    if not folders.is_folder(volume):
        return "is not there"
    return "is mounted" if volume.is_mount() else "is there, but nothing is mounted on it"


def _describe_folder(folder: ModelFolder, suffixes: Collection[str] | None, end: float) -> str:
    number, size, ignored = 0, 0, []
    for file in walk_files([folder.path], end):
        if suffixes is None or _suffix(file) in suffixes:
            number, size = number + 1, size + _size(file)
        else:
            ignored.append(file.name)
    text = f"{folder.path} ({folder.kind}): {number} file{'s' * (number != 1)}, {size / 1e9:.2f} GB"
    if ignored:
        more = ", ..." if len(ignored) > _MAX_NAMED else ""
        text += f"; ignored because of their ending: {', '.join(sorted(ignored)[:_MAX_NAMED])}{more}"
    return text + ("; there was no time to see more" if time.monotonic() > end else "")


def _size(file: "os.DirEntry[str]") -> int:
    try:
        return file.stat().st_size
    except OSError:  # removed meanwhile
        return 0
