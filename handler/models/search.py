"""Which model files lie where: for a model that ComfyUI does not list, and for NETWORK_VOLUME_DEBUG."""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from handler.graphs.node_classes import NodeClasses
from handler.models import folders as volumes
from handler.models.folders import ModelFolder
from handler.settings import Settings

logger = logging.getLogger(__name__)

# The endings that ComfyUI lists, in lower case. It lists all files of kinds that it does not know, and these as it likes.
_ENDINGS = frozenset({".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"})
_OTHER_ENDINGS = {"configs": frozenset({".yaml"}), "diffusers": None, "classifiers": None}

# A volume may be a slow network disk with anything on it: a look at it ends somewhere.
_DEEPEST = 6
_MOST_ENTRIES = 50_000
_LONGEST_S = 2.0
_LONGEST_REPORT_S = 10.0
_NOT_ENTERED = {"custom_nodes", "node_modules", "site-packages", "venv", "__pycache__"}
# One look serves all the models that are missed meanwhile.
_FRESH_S = 10.0
_MOST_NAMED = 3

Told = Callable[[], Mapping[str, Sequence[str]]]
"""Asks ComfyUI in which folders it looks for each kind of model; {} when it does not say."""


class ModelSearch:
    """Says where ComfyUI looked for a model, and where else a file of that name lies. Safe to use from many threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._until = 0.0
        self._told: Mapping[str, Sequence[str]] = {}
        self._folders: dict[str, list[Path]] = {}

    def __call__(self, classes: NodeClasses, told: Told, class_type: str, name: str, value: str) -> str:
        """Of the value of an input: the rest of a sentence, which begins with "; ". Empty for what names no model."""
        known = classes.get(class_type)
        kind = known.models.get(name) if known else None
        return self.sentence(value, kind, told) if kind else ""

    def sentence(self, name: str, kind: str, told: Told) -> str:
        """The same for a model's name and its kind; empty as well when ComfyUI does not tell where it looks."""
        given = PurePosixPath(name.replace("\\", "/"))
        if given.suffix.lower() not in _ENDINGS or ".." in given.parts or given.is_absolute():
            return ""
        with self._lock:
            if time.monotonic() > self._until:
                self._look(told)
            looked, lies = self._told.get(kind, ()), self._folders.get(given.name, [])
        if not looked:
            return ""
        text = f"; ComfyUI looked in {_listed([one for one in looked if volumes.is_folder(Path(one))] or looked)}"
        # Not the very place that was looked at: ComfyUI will have its reasons.
        others = [
            folder for folder in lies if folder not in {Path(os.path.realpath(one)) / given.parent for one in looked}
        ]
        return f"{text}; a file of that name lies in {_listed(others[:_MOST_NAMED])}" if others else text

    def _look(self, told: Told) -> None:
        self._told, self._folders = told(), {}
        places = [folder for kind, folders in self._told.items() if kind != "custom_nodes" for folder in folders]
        own = [volumes.own_models(self._settings), self._settings.model_dir, *volumes.volumes(self._settings)]
        for file in walk_files([*map(Path, places), *own], time.monotonic() + _LONGEST_S):
            if os.path.splitext(file.name)[1].lower() in _ENDINGS:  # noqa: PTH122 (a Path per file is slow)
                self._folders.setdefault(file.name, []).append(Path(file.path).parent)
        self._until = time.monotonic() + _FRESH_S


def _listed(folders: Sequence[object]) -> str:
    *others, last = map(str, folders)
    return f"{', '.join(others)} and {last}" if others else last


def walk_files(roots: Iterable[Path], end: float) -> Iterator["os.DirEntry[str]"]:
    """The files below the folders, upper ones first; no link to a folder is followed, except where it is a root itself.

    It ends at `end` (of time.monotonic), and when there were too many.
    """
    folders = deque((folder, 0) for folder in dict.fromkeys(os.path.realpath(root) for root in roots))
    seen: set[str] = set()
    entries = 0
    while folders:
        folder, depth = folders.popleft()
        if folder in seen:
            continue
        seen.add(folder)
        for entry, is_folder in _entries(folder):
            entries += 1
            if entries > _MOST_ENTRIES or time.monotonic() > end:
                return
            if entry.name.startswith(".") or is_folder is None:
                continue
            if not is_folder:
                yield entry
            elif depth < _DEEPEST and entry.name not in _NOT_ENTERED:
                folders.append((entry.path, depth + 1))


def _entries(folder: str) -> Iterator[tuple["os.DirEntry[str]", bool | None]]:
    """What is in a folder, and whether it is a folder, a file, or, with None, neither; a link to a folder is neither."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                yield entry, is_folder if is_folder or entry.is_file() else None
    except OSError as exc:
        logger.debug("%s cannot be read: %s", folder, exc.strerror)


def prepare(settings: Settings) -> None:
    """What is to be done before ComfyUI starts: MODEL_DIR is made, and with NETWORK_VOLUME_DEBUG the volumes are described."""
    volumes.make_model_dir(settings)
    if settings.network_volume_debug:
        for line in describe_volumes(settings):
            logger.info("volumes: %s", line)


def describe_volumes(settings: Settings) -> Iterator[str]:
    """What the volumes hold, and what ComfyUI is told of it, in lines."""
    for volume in volumes.volumes(settings):
        yield f"{volume} {_state(volume)}"
    folders = [folder for folder in volumes.model_folders(settings) if volumes.is_folder(folder.path)]
    end = time.monotonic() + _LONGEST_REPORT_S
    kinds = set(volumes.kinds_of_folders(settings.comfy_home).values())
    for folder in folders:
        yield _contents(folder, _OTHER_ENDINGS.get(folder.kind, _ENDINGS) if folder.kind in kinds else None, end)
    if not folders:
        places = ", ".join(f"{layout}/checkpoints" for layout in volumes.VOLUME_LAYOUTS)
        yield f"no folder of models was found; they may be {places} and the like, or checkpoints, loras, ... on top"
    text = volumes.extra_model_paths(settings)
    yield from ["ComfyUI is told:", *text.splitlines()] if text else ["ComfyUI is told of no further folder"]


def _state(volume: Path) -> str:
    if not volumes.is_folder(volume):
        return "is not there"
    return "is mounted" if volume.is_mount() else "is there, but nothing is mounted on it"


def _contents(folder: ModelFolder, endings: Collection[str] | None, end: float) -> str:
    number, size, ignored = 0, 0, []
    for file in walk_files([folder.path], end):
        if endings is None or os.path.splitext(file.name)[1].lower() in endings:  # noqa: PTH122
            number, size = number + 1, size + _size(file)
        else:
            ignored.append(file.name)
    text = f"{folder.path} ({folder.kind}): {number} file{'s' * (number != 1)}, {size / 1e9:.2f} GB"
    if ignored:
        more = ", ..." if len(ignored) > _MOST_NAMED else ""
        text += f"; ignored because of their ending: {', '.join(sorted(ignored)[:_MOST_NAMED])}{more}"
    return text + ("; there was no time to see more" if time.monotonic() > end else "")


def _size(file: "os.DirEntry[str]") -> int:
    try:
        return file.stat().st_size
    except OSError:  # removed meanwhile
        return 0
