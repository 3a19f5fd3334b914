"""Files of the Hugging Face hub, and uploads to a repository."""

import contextlib
import functools
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from handler.errors import BadRequest, DeliveryError, InputUnavailable
from handler.net import deadline
from handler.schemas import Auth, BearerAuth, HfUpload, Upload
from handler.settings import Settings
from handler.storage.auth import AuthFor
from handler.storage.download import check_http_url, download
from handler.storage.transfer import IDLE_TIMEOUT_S, Limits, Version
from handler.urls import describe_url, origin, quote_path

# hf://[datasets/]owner/name[@revision]/path, as huggingface_hub's file system writes it.
_URL = re.compile(
    r"hf://(?:(?P<kind>models|datasets|spaces)/)?(?P<repo>(?!(?:models|datasets|spaces)/)[^/@]+/[^/@]+)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?/(?P<path>.+)",
    re.IGNORECASE,
)
_TEMPORARY = {409, 412, 429, 500, 502, 503, 504}


class HfStorage:
    """Files of the hub. The token goes to the hub alone, not to the servers to which it redirects."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._hub = settings.hf_endpoint.rstrip("/")

    def matches(self, url: str) -> bool:
        return url[:5].lower() == "hf://" or self._is_hub(url)

    def check_url(self, url: str, auth: Auth | None) -> None:
        check_http_url(self._https_url(url), auth=auth, settings=self._settings, trusted=True)

    def fetch(
        self,
        url: str,
        file: BinaryIO,
        *,
        version: Version | None = None,
        auth: Auth | None = None,
        max_bytes: int | None,
    ) -> None:
        limits = Limits(describe_url(url), max_bytes)
        token = self._settings.hf_token
        if auth is None and token:
            auth = BearerAuth(type="bearer", token=token)
        where = self._https_url(url)
        download(where, file, version=version, auth=auth, limits=limits, settings=self._settings, trusted=[self._hub])

    def takes(self, upload: Upload) -> bool:
        return isinstance(upload, HfUpload)

    def check(self, upload: Upload, auth_for: AuthFor) -> None:
        assert isinstance(upload, HfUpload)
        self._token(self._upload_url(upload, ""), auth_for)
        try:
            _library().check_names(upload.repo, _path(upload, "file"))
        except ValueError as exc:
            raise BadRequest("`hf_upload` names a repository or a directory that the hub does not take.") from exc

    def store(
        self,
        upload: Upload,
        filename: str,
        content: BinaryIO,
        *,
        size: int,  # noqa: ARG002 (the library finds it out)
        mime_type: str,  # noqa: ARG002 (the hub goes by the name)
        auth_for: AuthFor,
    ) -> str:
        assert isinstance(upload, HfUpload)
        url = self._upload_url(upload, filename)
        hub = _library()
        api = hub.HfApi(endpoint=self._hub, token=self._token(url, auth_for))
        try:
            _retry(lambda: self._commit(api, upload, filename, content))
        except hub.failures as exc:
            raise DeliveryError(f"The upload to {describe_url(url)} failed: {_reason(exc)}.") from exc
        return url

    def _commit(self, api: Any, upload: HfUpload, filename: str, content: BinaryIO) -> None:
        content.seek(0)
        api.upload_file(
            path_or_fileobj=content,
            path_in_repo=_path(upload, filename),
            repo_id=upload.repo,
            repo_type=upload.repo_type,
            revision=upload.revision,
            commit_message=f"Upload {filename}",
        )

    def _is_hub(self, url: str) -> bool:
        with contextlib.suppress(ValueError):
            return origin(url) == origin(self._hub)
        return False

    def _https_url(self, url: str) -> str:
        """The https URL of a file. Raises InputUnavailable."""
        if self._is_hub(url):
            return url
        match = _URL.fullmatch(url)
        if match is None:
            raise InputUnavailable(
                f"{describe_url(url)} is not the URL of a file; it has to be hf://owner/repository/path."
            )
        kind = (match["kind"] or "models").lower()
        revision = unquote(match["revision"] or "main")
        return self._file("" if kind == "models" else f"{kind}/", match["repo"], revision, match["path"])

    def _upload_url(self, upload: HfUpload, filename: str) -> str:
        kind = "datasets/" if upload.repo_type == "dataset" else ""
        return self._file(kind, upload.repo, upload.revision, _path(upload, filename))

    def _file(self, kind: str, repo: str, revision: str, path: str) -> str:
        return f"{self._hub}/{kind}{repo}/resolve/{quote(revision, safe='')}/{quote_path(path)}"

    def _token(self, url: str, auth_for: AuthFor) -> str:
        auth = auth_for(url)
        token = auth.token if isinstance(auth, BearerAuth) else self._settings.hf_token
        if not token:
            raise BadRequest(
                "There is no token for the Hugging Face hub: set HF_TOKEN, or send `credentials` of type bearer."
            )
        return token.get_secret_value()


@dataclass(frozen=True)
class _Hub:
    """What we use of huggingface_hub. `failures` is what it raises; `check_names` raises ValueError for invalid names."""

    HfApi: Any
    check_names: Callable[[str, str], None]
    failures: tuple[type[Exception], ...]


@functools.cache
def _library() -> _Hub:
    try:
        from huggingface_hub import CommitOperationAdd, HfApi, get_session, set_client_factory
        from huggingface_hub.errors import HTTPError
        from huggingface_hub.utils import disable_progress_bars, validate_repo_id
    except ImportError as exc:
        raise BadRequest("The Hugging Face hub is not supported here: install comfyui-handler[hf].") from exc
    disable_progress_bars()
    # We pass a file object, which goes over plain HTTP, and the library warns of that every time. Xet would keep chunks on
    # the disk, for uploads that are never repeated.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    session = get_session()
    # Without a time-out it waits for ever. We ask for its client class because it has changed its HTTP library twice.
    client, hooks = type(session), {**session.event_hooks, "request": [*session.event_hooks["request"], _bind]}
    set_client_factory(lambda: client(event_hooks=hooks, follow_redirects=True, timeout=IDLE_TIMEOUT_S))

    def check_names(repo: str, path: str) -> None:
        validate_repo_id(repo)
        CommitOperationAdd(path, b"")

    # RuntimeError: around whatever stopped a large file.
    return _Hub(HfApi, check_names, (HTTPError, OSError, ValueError, RuntimeError))


def _bind(request: Any) -> None:
    """Make a request of the library end at the deadline: its own tries, and their connections."""
    if deadline.left_s() <= 0:
        raise TimeoutError

    def trace(event: str, facts: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            deadline.bind(_Connection(), facts["return_value"].get_extra_info("socket"))

    request.extensions["trace"] = trace
    request.headers["Connection"] = "close"  # a connection that stays open would not be traced again


class _Connection:
    owner: deadline.Deadline | None = None


def _retry(do: Callable[[], object]) -> None:
    """Try again while the hub refuses the commit: it takes one at a time.

    The same file makes no second commit. The library repeats all other requests itself.
    """
    Retrying(
        stop=stop_after_attempt(5),
        wait=wait_random_exponential(multiplier=0.2, max=5),
        retry=retry_if_exception(_is_temporary),
        reraise=True,
    )(do)


def _is_temporary(exc: BaseException) -> bool:
    response = getattr(exc, "response", None)
    return response is not None and response.status_code in _TEMPORARY and "/commit/" in response.request.url.path


def _path(upload: HfUpload, filename: str) -> str:
    directory = upload.directory.strip("/")
    return f"{directory}/{filename}" if directory else filename


def _reason(exc: Exception) -> str:
    """Why an upload failed, for the caller: the texts of these exceptions hold whole URLs."""
    response = getattr(exc, "response", None) or getattr(exc.__cause__, "response", None)
    if response is None:
        return "the hub's answer is not valid" if isinstance(exc, ValueError) else "no connection"
    known = {401: "access denied", 403: "access denied", 404: "there is no such repository or branch"}
    return known.get(response.status_code, f"the hub answered {response.status_code}")
