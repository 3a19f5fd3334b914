"""Downloads models into ComfyUI's model folders, once each, keeps those in use, and removes the oldest when they are too many."""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from handler import disk, storage
from handler.errors import BadRequest, HandlerError, InputUnavailable, TooLarge, locate
from handler.graphs import Graph, ModelInput, set_inputs
from handler.models import download, folders
from handler.models.download import Download, is_url
from handler.models.hold import Hold
from handler.models.index import Entry, ModelIndex, evict
from handler.schemas import Auth
from handler.settings import Settings
from handler.urls import MAX_URL_LENGTH, describe_url, redact_url

logger = logging.getLogger(__name__)

_MAX_DOWNLOAD_S = 4 * 3600.0
_ACCESS_TIMEOUT_S = 60.0
OnEvent = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class _HeldFile:
    """A model file, and what keeps it from being removed."""

    path: Path
    hold: Hold


class ModelCache:
    """The model folders under MODEL_DIR. Safe to use from many threads, and from many processes with one CACHE_DIR.

    `folder_names` asks ComfyUI for the names of its model folders. `on_event` gets "file_downloaded", "file_deleted" or
    "file_failed", and {url, local_path, ...}; it must not raise.
    """

    def __init__(
        self,
        settings: Settings,
        folder_names: Callable[[], Collection[str]] = tuple,
        on_event: OnEvent = lambda _event, _facts: None,
    ) -> None:
        self._settings = settings
        self._folder_names = folder_names
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

        Afterwards the file may be removed at any moment. Whoever asks for the same file meanwhile waits for it. A transfer that
        broke off resumes, in a later call as well. Raises HandlerError.
        """
        name = self.name(url, filename)
        wanted = Download(url, self.folder(folder), name, filename is not None, auth, sha256 and sha256.lower())
        with disk.writing(str(wanted.path)):
            file = self._obtain(wanted)
            with file.hold:
                return file.path, file.path.stat().st_size

    def install(self, url: str, path: Path, *, auth: Auth | None = None, sha256: str | None = None) -> Path:
        """The file of a URL at a path of the operator's choice, where it then stays. Raises HandlerError.

        A file that is there already is taken for it, unless it was downloaded from elsewhere or has another sha256.
        """
        wanted = Download(url, path.parent, path.name, auth=auth, sha256=sha256 and sha256.lower(), pinned=True)
        file = self._obtain(wanted)
        file.hold.close()
        return file.path

    def fetch(self, prompt: Graph, inputs: Sequence[ModelInput], auth_for: storage.AuthFor) -> tuple[Graph, Hold]:
        """The graph with names of files in place of URLs, and a hold on the downloads that it uses, by URL or by name.

        Raises HandlerError with the input as location, and holds nothing then.
        """
        names: dict[tuple[str, str], str] = {}
        hold = Hold()
        try:
            for one in inputs:
                if len(one.value) > MAX_URL_LENGTH:
                    raise InputUnavailable(f"It has more than {MAX_URL_LENGTH} characters.", location=one.location)
                if is_url(one.value):
                    with locate(one.location):
                        file = self._obtain(self._download_for(one, auth_for))
                    hold.take(file.hold)
                    names[one.node_id, one.name] = file.path.name
                else:
                    hold.take(self._hold_downloads(self._candidates(one)))
        except BaseException:
            hold.close()
            raise
        return set_inputs(prompt, names), hold

    def has_all(self, inputs: Sequence[ModelInput], auth_for: storage.AuthFor) -> bool:
        """Whether `fetch` has nothing to ask another server for. Errors are left to it, too."""
        try:
            wanted = [self._download_for(one, auth_for) for one in inputs if is_url(one.value)]
        except HandlerError:
            return True
        # Most jobs bring no URL of a model: the index is not read for them.
        entries = self._index.entries() if wanted else {}
        return all(
            any(one.is_met_by(path, entry) and not entry.private for path, entry in entries.items()) for one in wanted
        )

    def _candidates(self, one: ModelInput) -> list[Path]:
        """Where under MODEL_DIR ComfyUI looks for a named model: it has several folders for some kinds."""
        kinds = folders.kinds_of_folders(self._settings.comfy_home)
        names = {one.folder, *(folder for folder, kind in kinds.items() if kind == kinds.get(one.folder))}
        return [self._settings.model_dir / name / one.value for name in names]

    def _download_for(self, one: ModelInput, auth_for: storage.AuthFor) -> Download:
        folders.check_model_dir(self._settings)
        folder = folders.model_folder(one.folder, self._settings, self._folder_names)
        return Download(one.value, folder, None, False, auth_for(one.value))

    def _hold_downloads(self, paths: Sequence[Path]) -> Hold:
        """Keep those of the files that are downloads from being removed, by this process or any other."""
        hold = Hold()
        if self._index.entries().keys().isdisjoint(paths):
            return hold
        with self._index.update() as entries:
            for path in paths:
                if path in entries and path.is_file():
                    hold.add(path)
                    entries[path] = replace(entries[path], used=time.time())
        return hold

    def name(self, url: str, filename: str | None) -> str:
        """The file name of a download, safe in a model folder. Raises BadRequest."""
        return download.name_from_url(url) if filename is None else download.safe_name(filename)

    def folder(self, name: str) -> Path:
        """The folder of a `model_type`. Raises BadRequest for one that neither ComfyUI nor MODEL_DIR has."""
        folders.check_model_dir(self._settings)
        with locate("model_type"):
            return folders.model_folder(name, self._settings, self._folder_names)

    def announce_failure(self, url: str, where: str, exc: HandlerError) -> None:
        """Log and announce that a download failed for which nobody waits."""
        logger.error("%s could not be downloaded to %s: %s", redact_url(url), where, exc)
        self._on_event("file_failed", {"url": redact_url(url), "local_path": where, "error": exc.message})

    def _obtain(self, wanted: Download) -> _HeldFile:
        """The wanted file: one that is there already, or a new one."""
        complaint = f"{describe_url(wanted.url)}: another download of it takes too long."
        # Not by the target's name: it may be known at the end only.
        with (
            disk.writing(str(wanted.path)),
            self._index.lock(f"{wanted.key} {wanted.folder}", _MAX_DOWNLOAD_S, complaint),
        ):
            file = self._find(wanted) or self._fetch_file(wanted)
        self._make_room()
        return file

    def _find(self, wanted: Download) -> _HeldFile | None:
        """A file that makes a transfer unnecessary, if there is one."""
        entries = self._index.entries()
        path = next((path for path, entry in entries.items() if wanted.is_met_by(path, entry)), None)
        if path is None:
            return self._adopt(wanted, entries) or self._link(wanted, entries)
        if wanted.sha256 and (entries[path].sha256 or download.file_sha256(path)) != wanted.sha256:
            return None
        self._check_access(wanted, entries[path])
        return self._reuse(path, wanted, entries[path])

    def _adopt(self, wanted: Download, entries: Mapping[Path, Entry]) -> _HeldFile | None:
        """The file at the wanted path that was not downloaded from the URL, if it is known to be the right one."""
        path = wanted.path
        if wanted.name is None or not path.exists():
            return None
        right = wanted.sha256 and download.file_sha256(path) == wanted.sha256
        if right or (wanted.pinned and not wanted.sha256 and path.is_file() and path not in entries):
            logger.info("%s is there already", path)
            hold = self._hold_downloads([path])
            return _HeldFile(path, hold) if path.exists() else None
        self._check_way(wanted, path, entries)
        return None

    def _check_way(self, wanted: Download, path: Path, entries: Mapping[Path, Entry]) -> None:
        if not wanted.may_take(path, entries.get(path)):
            raise BadRequest(
                f"{path.parent.name}/{path.name} exists already and was not downloaded from {describe_url(wanted.url)}; "
                "remove it, give another filename, or give its sha256 if it is the same.",
                location="filename" if wanted.name else None,
            )

    def _link(self, wanted: Download, entries: Mapping[Path, Entry]) -> _HeldFile | None:
        """Another file of the same URL under one more name, which costs neither a transfer nor disk."""
        same = (path for path, entry in entries.items() if entry.key == wanted.key and entry.is_at(path))
        source = next(same, None)
        if source is None or wanted.sha256:
            return None
        self._check_access(wanted, entries[source])
        try:
            target = wanted.target(source)
            self._check_way(wanted, target, entries)
            wanted.folder.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            os.link(source, target)
        except OSError:  # removed meanwhile, or on another file system
            return None
        return self._reuse(target, wanted, entries[source])

    def _check_access(self, wanted: Download, entry: Entry) -> None:
        """Ask the store, each time, whether the caller's credentials open what another caller's have opened."""
        if not entry.private:
            return
        store = storage.store_for_url(wanted.url, self._settings)
        # TooLarge: the store lets us in, since there is more than a byte of it.
        with tempfile.TemporaryFile() as file, storage.time_limit(wanted.url, _ACCESS_TIMEOUT_S), suppress(TooLarge):
            store.fetch(wanted.url, file, auth=wanted.auth, max_bytes=1)

    def _reuse(self, path: Path, wanted: Download, entry: Entry) -> _HeldFile | None:
        """A file that is there already; None when it was removed meanwhile."""
        hold = Hold()
        with self._index.update() as entries:
            if not entry.is_at(path):
                return None
            hold.add(path)
            entries[path] = replace(
                entry,
                used=time.time(),
                private=entry.private and wanted.auth is not None,
                pinned=(path in entries and entry.pinned) or wanted.pinned,
                sha256=wanted.sha256 or entry.sha256,
            )
        return _HeldFile(path, hold)

    def _fetch_file(self, wanted: Download) -> _HeldFile:
        """Transfer the file and give it its name."""
        self._make_room()
        began = time.monotonic()
        wanted.folder.mkdir(parents=True, exist_ok=True)
        part = wanted.path.with_name(f".{wanted.path.name}.part-{wanted.key[:16]}")
        logger.info("downloading %s to %s", redact_url(wanted.url), wanted.path)
        with storage.time_limit(wanted.url, _MAX_DOWNLOAD_S):
            download.transfer(wanted.url, part, self._settings, auth=wanted.auth)
        download.check_content(wanted.url, part, wanted.sha256)
        path, hold = wanted.target(part), Hold()
        with self._index.update() as entries:
            self._check_way(wanted, path, entries)
            part.replace(path)
            hold.add(path)
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
        return _HeldFile(path, hold)

    def _make_room(self) -> None:
        """Remove the least recently used downloads while they take more than LRU_CACHE_SIZE_GB."""
        limit = self._settings.lru_cache_size_gb * (1 << 30)
        if not limit:
            return
        with self._index.update() as entries:
            removed = evict(entries, limit)
        for path, entry in removed.items():
            self._announce("file_deleted", path, entry)

    def _announce(self, event: str, path: Path, entry: Entry, **more: Any) -> None:
        logger.info("%s: %s, %d bytes, from %s", event, path, entry.size, entry.url)
        where = {"local_path": str(path), "folder": path.parent.name, "filename": path.name}
        self._on_event(event, {"url": entry.url, **where, "size": entry.size, **more})
