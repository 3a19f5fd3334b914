"""Models: downloaded once into the folder where ComfyUI looks, kept while they are used, removed when they are too many."""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from handler import disk, storage
from handler.errors import BadRequest, HandlerError, InputUnavailable, TooLarge, locate
from handler.graphs import graph
from handler.graphs.graph import Graph, ModelInput
from handler.models import download
from handler.models import folders as volumes
from handler.models.download import Download, is_url
from handler.models.index import Entry, ModelIndex, evict, open_in_use
from handler.schemas.credentials import Auth
from handler.settings import Settings
from handler.urls import MAX_URL_LENGTH, describe_url, redact_url

logger = logging.getLogger(__name__)

_LONGEST_DOWNLOAD_S = 4 * 3600.0
_ACCESS_TIMEOUT_S = 60.0
# Of a file system, in bytes.
_LONGEST_NAME = 255

Hold = ExitStack
"""Files in use: none of them is removed before it is closed. One that is dropped lets go as well."""
OnEvent = Callable[[str, dict[str, Any]], None]


class ModelCache:
    """The model folders under MODEL_DIR. Safe to use from many threads, and from many processes with one CACHE_DIR.

    `folders` asks ComfyUI for the names of its model folders. `on_event` gets "file_downloaded", "file_deleted" or
    "file_failed", and {url, local_path, ...}; it must not raise.
    """

    def __init__(
        self,
        settings: Settings,
        folders: Callable[[], Collection[str]] = tuple,
        on_event: OnEvent = lambda _event, _facts: None,
    ) -> None:
        self._settings = settings
        self._folders = folders
        self._on_event = on_event
        self._index = ModelIndex(settings.cache_dir)

    def download(
        self,
        url: str,
        folder: str,
        *,
        filename: str | None = None,
        auth: Auth | None = None,
        sha256: str | None = None,
    ) -> tuple[Path, int]:
        """The file of a URL in a model folder, under the given name, by default the URL's, and its size in bytes.

        Afterwards the file may be removed at any moment. Whoever asks for the same meanwhile waits for it. What broke off goes
        on where it was, also at a later call. Raises HandlerError.
        """
        name = self.name(url, filename)
        wanted = Download(url, self.folder(folder), name, filename is not None, auth, sha256 and sha256.lower())
        with Hold() as hold, disk.writing(str(wanted.path)):
            path = self._obtained(wanted, hold)
            return path, path.stat().st_size

    def install(self, url: str, path: Path, *, auth: Auth | None = None, sha256: str | None = None) -> Path:
        """The file of a URL at a path of the operator's choice, where it then stays. Raises HandlerError.

        A file that is there already is taken for it, unless it was downloaded from elsewhere or has another sha256.
        """
        wanted = Download(url, path.parent, path.name, auth=auth, sha256=sha256 and sha256.lower(), pinned=True)
        with Hold() as hold:
            return self._obtained(wanted, hold)

    def fetch(self, prompt: Graph, places: Sequence[ModelInput], auth_for: storage.AuthFor) -> tuple[Graph, Hold]:
        """The graph with names of files in place of URLs, and a hold on the downloads that it uses, by URL or by name.

        Raises HandlerError with the place as location, and holds nothing then.
        """
        names: dict[tuple[str, str], str] = {}
        with Hold() as hold:
            for place in places:
                if len(place.value) > MAX_URL_LENGTH:
                    raise InputUnavailable(f"It has more than {MAX_URL_LENGTH} characters.", location=place.location)
                if not is_url(place.value):
                    hold.push(self.hold_files(self._candidates(place)))
                    continue
                with locate(place.location):
                    wanted = self._wanted(place, auth_for)
                    names[place.node_id, place.name] = self._obtained(wanted, hold).name
            return graph.set_inputs(prompt, names), hold.pop_all()

    def has_all(self, places: Sequence[ModelInput], auth_for: storage.AuthFor) -> bool:
        """Whether `fetch` has nothing to ask another server for. What is wrong is left to it."""
        entries = self._index.entries()
        try:
            wanted = [self._wanted(place, auth_for) for place in places if is_url(place.value)]
        except HandlerError:
            return True
        return all(
            any(one.is_met_by(path, entry) and not entry.private for path, entry in entries.items()) for one in wanted
        )

    def _candidates(self, place: ModelInput) -> list[Path]:
        """Where under MODEL_DIR ComfyUI looks for a named model: it has several folders for some kinds."""
        kinds = volumes.kinds_of_folders(self._settings.comfy_home)
        folders = {place.folder, *(folder for folder, kind in kinds.items() if kind == kinds.get(place.folder))}
        return [self._settings.model_dir / folder / place.value for folder in folders]

    def _wanted(self, place: ModelInput, auth_for: storage.AuthFor) -> Download:
        return Download(place.value, self._subfolder(self._root(), place.folder), None, False, auth_for(place.value))

    def hold_files(self, paths: Sequence[Path]) -> Hold:
        """Keep those of the files that are downloads of ours from being removed, by this process or any other."""
        if self._index.entries().keys().isdisjoint(paths):
            return Hold()
        with self._index.update() as entries, Hold() as hold:
            for path in paths:
                if path in entries and path.is_file():
                    hold.enter_context(open_in_use(path))
                    entries[path] = replace(entries[path], used=time.time())
            return hold.pop_all()

    def name(self, url: str, filename: str | None) -> str:
        """The file name of a download, safe in a model folder. Raises BadRequest."""
        return download.name_from_url(url) if filename is None else download.safe_name(filename)

    def folder(self, name: str) -> Path:
        """The folder of a `model_type`. Raises BadRequest for one that neither ComfyUI nor MODEL_DIR has."""
        root = self._root()
        with locate("model_type"):
            return self._subfolder(root, name)

    def _root(self) -> Path:
        root = self._settings.model_dir
        if not root.is_dir():
            raise BadRequest(f"MODEL_DIR={str(root)!r} is not a folder on this disk, so no model can be downloaded.")
        return root

    def _subfolder(self, root: Path, name: str) -> Path:
        path, parts = root / name, name.split("/")
        # ComfyUI names custom_nodes among its model folders; what lies there is run as code.
        strange = any(
            part.startswith(".") or part in ("", "custom_nodes") or "\\" in part or len(part.encode()) > _LONGEST_NAME
            for part in parts
        )
        if strange or "\0" in name or not (path.is_dir() or name in self._folders()):
            known = ", ".join(sorted(entry.name for entry in root.iterdir() if entry.is_dir()))
            raise BadRequest(f"There is no model folder {name!r}; there are: {known}.")
        # The folder of a kind may be a link, to a volume for example; below it none may lead out.
        if not path.resolve().is_relative_to((root / parts[0]).resolve()):
            raise BadRequest(f"The model folder {name!r} leads out of {parts[0]!r}.")
        return path

    def failed(self, url: str, where: str, exc: HandlerError) -> None:
        """Announce that a download failed that nobody waits for."""
        logger.error("%s could not be downloaded to %s: %s", redact_url(url), where, exc)
        self._on_event("file_failed", {"url": redact_url(url), "local_path": where, "error": exc.message})

    def _obtained(self, wanted: Download, hold: Hold) -> Path:
        """The wanted file, which `hold` keeps from being removed."""
        complaint = f"{describe_url(wanted.url)}: another download of it takes too long."
        # Not by the target's name: it may be known at the end only.
        with (
            disk.writing(str(wanted.path)),
            self._index.lock(f"{wanted.key} {wanted.folder}", _LONGEST_DOWNLOAD_S, complaint),
        ):
            path = self._found(wanted, hold) or self._new(wanted, hold)
        self._make_room()
        return path

    def _found(self, wanted: Download, hold: Hold) -> Path | None:
        """A file that makes a transfer unnecessary, if there is one."""
        entries = self._index.entries()
        path = next((path for path, entry in entries.items() if wanted.is_met_by(path, entry)), None)
        if path is None:
            return self._adopted(wanted, entries, hold) or self._linked(wanted, entries, hold)
        if wanted.sha256 and (entries[path].sha256 or download.file_sha256(path)) != wanted.sha256:
            return None
        self._check_access(wanted, entries[path])
        return self._kept(path, wanted, entries[path], hold)

    def _adopted(self, wanted: Download, entries: Mapping[Path, Entry], hold: Hold) -> Path | None:
        """A file that is at the place and no download of ours, when it is known to be the right one."""
        path = wanted.path
        if wanted.name is None or not path.exists():
            return None
        right = wanted.sha256 and download.file_sha256(path) == wanted.sha256
        if right or (wanted.pinned and not wanted.sha256 and path.is_file() and path not in entries):
            logger.info("%s is there already", path)
            hold.push(self.hold_files([path]))
            return path if path.exists() else None
        self._check_way(wanted, path, entries)
        return None

    def _check_way(self, wanted: Download, path: Path, entries: Mapping[Path, Entry]) -> None:
        if not wanted.may_take(path, entries.get(path)):
            raise BadRequest(
                f"{path.parent.name}/{path.name} exists already and was not downloaded from {describe_url(wanted.url)}; "
                "remove it, give another filename, or give its sha256 if it is the same.",
                location="filename" if wanted.name else None,
            )

    def _linked(self, wanted: Download, entries: Mapping[Path, Entry], hold: Hold) -> Path | None:
        """The same URL's file under one more name, which costs neither a transfer nor disk."""
        twins = (path for path, entry in entries.items() if entry.key == wanted.key and entry.is_at(path))
        twin = next(twins, None)
        if twin is None or wanted.sha256:
            return None
        self._check_access(wanted, entries[twin])
        try:
            target = wanted.target(twin)
            self._check_way(wanted, target, entries)
            wanted.folder.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            os.link(twin, target)
        except OSError:  # gone meanwhile, or on another file system
            return None
        return self._kept(target, wanted, entries[twin], hold)

    def _check_access(self, wanted: Download, entry: Entry) -> None:
        """What credentials opened is given only to those whose own open it now: the store is asked each time."""
        if not entry.private:
            return
        store = storage.store_for_url(wanted.url, self._settings)
        # TooLarge: the store lets us in, since there is more than a byte of it.
        with tempfile.TemporaryFile() as file, storage.time_limit(wanted.url, _ACCESS_TIMEOUT_S), suppress(TooLarge):
            store.fetch(wanted.url, file, auth=wanted.auth, max_bytes=1)

    def _kept(self, path: Path, wanted: Download, entry: Entry, hold: Hold) -> Path | None:
        """A file that was there, now held; None when it was removed meanwhile."""
        with self._index.update() as entries:
            if not entry.is_at(path):
                return None
            hold.enter_context(open_in_use(path))
            entries[path] = replace(
                entry,
                used=time.time(),
                private=entry.private and wanted.auth is not None,
                pinned=(path in entries and entry.pinned) or wanted.pinned,
                sha256=wanted.sha256 or entry.sha256,
            )
        return path

    def _new(self, wanted: Download, hold: Hold) -> Path:
        """Transfer the file and give it its name."""
        self._make_room()
        began = time.monotonic()
        wanted.folder.mkdir(parents=True, exist_ok=True)
        part = wanted.path.with_name(f".{wanted.path.name}.part-{wanted.key[:16]}")
        logger.info("downloading %s to %s", redact_url(wanted.url), wanted.path)
        with storage.time_limit(wanted.url, _LONGEST_DOWNLOAD_S):
            download.transfer(wanted.url, part, self._settings, auth=wanted.auth)
        download.check_content(wanted.url, part, wanted.sha256)
        path = wanted.target(part)
        with self._index.update() as entries:
            self._check_way(wanted, path, entries)
            part.replace(path)
            hold.enter_context(open_in_use(path))
            entry = entries[path] = Entry(
                url=redact_url(wanted.url),
                key=wanted.key,
                size=path.stat().st_size,
                private=wanted.auth is not None,
                pinned=wanted.pinned,
                used=time.time(),
                sha256=wanted.sha256,
            )
        self._announce("file_downloaded", path, entry, duration=round(time.monotonic() - began, 3))
        return path

    def _make_room(self) -> None:
        """Remove downloads that were not used for longest while there are more GB than LRU_CACHE_SIZE_GB."""
        limit = self._settings.lru_cache_size_gb * (1 << 30)
        if not limit:
            return
        with self._index.update() as entries:
            gone = evict(entries, limit)
        for path, entry in gone.items():
            self._announce("file_deleted", path, entry)

    def _announce(self, event: str, path: Path, entry: Entry, **more: Any) -> None:
        logger.info("%s: %s, %d bytes, from %s", event, path, entry.size, entry.url)
        where = {"local_path": str(path), "folder": path.parent.name, "filename": path.name}
        self._on_event(event, {"url": entry.url, **where, "size": entry.size, **more})
