"""The only speaker to ComfyUI."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from handler import comfy_errors
from handler.errors import ComfyCrashed, ComfyError, ComfyUnreachable, HandlerError, PromptTimeout
from handler.event import Graph
from handler.graph import NodeClass, node_class
from handler.line import Line, Ticket
from handler.messages import Message, Watch

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 5
_HTTP_TIMEOUT_S = 30
# A quiet websocket may be a dead one: this often the history is asked whatever the socket says.
_LOOK_INTERVAL_S = 1.0
_POLL_INTERVAL_S = 0.25
# ComfyUI writes the history entry just after it announces the end; "not there" is believed only after this long.
_HISTORY_LAG_S = 2.0
_TAKE_BACK_S = 10.0


@dataclass(frozen=True)
class Execution:
    """A finished run: ComfyUI's history entry, and when each node that ran began and ended, in ms since the epoch."""

    entry: Mapping[str, Any]
    node_started: Mapping[str, int]
    node_ended: Mapping[str, int]


class Comfy:
    """A conversation with one ComfyUI. Safe to use from many threads."""

    def __init__(self, url: str, *, inflight: int = 2) -> None:
        self.url = url
        self.line = Line(inflight)
        self._session = _session()
        self._classes: dict[str, NodeClass] = {}
        self._options: dict[tuple[str, str], list[str]] = {}

    def alive(self) -> bool:
        """Whether ComfyUI answers. Until all its nodes are loaded its port is closed."""
        try:
            return self._get("/system_stats", timeout=2).ok
        except ComfyUnreachable:
            return False

    def info(self, class_type: str) -> dict[str, Any]:
        """ComfyUI's declaration of a node class; {} for one that it does not have."""
        answer = self._json(f"/object_info/{quote(class_type, safe='')}") if class_type else {}
        found = answer.get(class_type)
        return found if isinstance(found, dict) else {}

    def classes(self, graph: Graph) -> dict[str, NodeClass | None]:
        """What a graph needs to know of the classes that it uses. Asked once per class: a change takes a restart."""
        names = {node["class_type"] for node in graph.values()}
        for name in names - self._classes.keys():
            if info := self.info(name):
                self._classes[name] = node_class(name, info)
        return {name: self._classes.get(name) for name in names}

    def options(self, class_type: str, name: str, *, fresh: bool = True) -> list[str]:
        """The values that ComfyUI offers for an input; [] for an input that is no list.

        Without `fresh` they may be as old as the last time that somebody asked.
        """
        key = (class_type, name)
        if fresh or key not in self._options:
            declared = self.info(class_type).get("input") or {}
            spec = next((group[name] for group in declared.values() if name in group), None)
            self._options[key] = comfy_errors.options(spec) if spec else []
        return self._options[key]

    def model_folders(self) -> list[str]:
        """The names of the model folders."""
        return [str(folder) for folder in self._json("/models")]

    def models(self) -> dict[str, list[str]]:
        """The names in each model folder."""
        return {folder: self._json(f"/models/{quote(folder, safe='')}") for folder in self.model_folders()}

    def queue_remaining(self, *, timeout_s: float = _HTTP_TIMEOUT_S) -> int:
        """How many prompts wait or run in ComfyUI's own queue, whoever put them there."""
        return int(self._json("/prompt", timeout=timeout_s)["exec_info"]["queue_remaining"])

    def has_input(self, name: str) -> bool:
        """Whether a file of this name is in the input folder."""
        subfolder, _, filename = name.rpartition("/")
        query = {"filename": filename, "subfolder": subfolder, "type": "input"}
        return bool(filename) and self._request("HEAD", "/view", params=query).status_code == requests.codes.ok

    def upload(self, file: Path, subfolder: str) -> None:
        """Put a file into the input folder of a ComfyUI that has another disk than ours."""
        with file.open("rb") as content:
            form = {"subfolder": subfolder, "type": "input", "overwrite": "true"}
            answer = self._request("POST", "/upload/image", data=form, files={"image": (file.name, content)})
        if not answer.ok:
            raise ComfyError(f"ComfyUI answered {answer.status_code} to the upload of an input.")

    def view(self, *, filename: str, subfolder: str, kind: str) -> bytes | None:
        """A file of ComfyUI's; None when it has no such file."""
        answer = self._get("/view", params={"filename": filename, "subfolder": subfolder, "type": kind})
        return answer.content if answer.ok else None

    def run(
        self,
        graph: Graph,
        ticket: Ticket,
        *,
        deadline: float,
        extra_data: Mapping[str, Any] | None = None,
        on_turn: Callable[[], None] = lambda: None,
        on_message: Callable[[Message], None] = lambda _: None,
    ) -> Execution:
        """Run a graph to its end. `ticket` must be fresh, `deadline` is in seconds of time.monotonic.

        Raises PromptRejected, PromptFailed, PromptTimeout, ComfyUnreachable, ComfyCrashed, PromptInterrupted, or whatever the
        ticket is cancelled with; after any of them the prompt is no longer in ComfyUI's queue, if ComfyUI lives.
        """
        prompt_id = ticket.prompt_id
        with self.line.turn(ticket, deadline):
            on_turn()
            # Listen first: a cached graph finishes before POST /prompt answers.
            with closing(Watch(self.url, prompt_id, on_message)) as watch:
                try:
                    self._queue(graph, prompt_id, watch.client_id, extra_data or {})
                    entry = self._end(ticket, watch, deadline)
                except ComfyCrashed:
                    raise
                except BaseException:
                    self._take_back(prompt_id)
                    raise
        ticket.check()
        comfy_errors.raise_failure(entry, graph)
        return Execution(entry, watch.node_started, watch.node_ended)

    def interrupt(self, ticket: Ticket, reason: HandlerError | None = None) -> str | None:
        """End a request, by default with PromptInterrupted, and say where it was: "queued" before its prompt's turn, or
        "running"; None when it cannot be ended any more."""
        was = self.line.cancel(ticket, reason)
        if was == "running":
            try:
                self._drop(ticket.prompt_id)
            except ComfyUnreachable:
                logger.warning(
                    "prompt %s: ComfyUI does not answer; it is taken back as soon as it does", ticket.prompt_id
                )
        return was

    def forget(self, prompt_id: str) -> None:
        """Remove a finished prompt from ComfyUI's history."""
        self._request("POST", "/history", json={"delete": [prompt_id]})

    def _queue(self, graph: Graph, prompt_id: str, client_id: str, extra_data: Mapping[str, Any]) -> None:
        body = {"prompt": graph, "client_id": client_id, "prompt_id": prompt_id}
        if extra_data:
            body["extra_data"] = dict(extra_data)
        # A connection of its own: a request that fails on a stale one must not be sent twice, both would run.
        with _session() as session:
            answer = self._send(session, "POST", "/prompt", data=json.dumps(body))
        if not answer.ok and answer.status_code != requests.codes.bad_request:
            raise ComfyError(f"ComfyUI answered {answer.status_code} to the prompt; its log says why.")
        # Also when it said 200: it would run the valid outputs only, and call that a success.
        told = _parsed(answer, "the prompt")
        if not answer.ok or told.get("node_errors"):
            raise comfy_errors.rejected(told, graph, self.options)

    def _end(self, ticket: Ticket, watch: Watch, deadline: float) -> Mapping[str, Any]:
        """Wait for the history entry, which alone says how a prompt ended; the websocket says when to look."""
        missing_since: float | None = None
        while True:
            ticket.check()
            if time.monotonic() > deadline:
                raise PromptTimeout("The prompt took longer than its time limit.")
            finished = watch.wait(min(_LOOK_INTERVAL_S, max(0.0, deadline - time.monotonic())))
            try:
                if entry := self.history(ticket.prompt_id):
                    return entry
                gone = finished or not self._queued(ticket.prompt_id)
            except ComfyUnreachable as exc:
                raise ComfyCrashed("ComfyUI went away while the prompt ran.") from exc
            if not gone:
                missing_since = None
                continue
            missing_since = missing_since or time.monotonic()
            if time.monotonic() - missing_since > _HISTORY_LAG_S:
                raise watch.lost()
            time.sleep(0.005)

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The entry of a finished prompt; None while it waits or runs, or for one that is not known."""
        entry = self._json(f"/history/{quote(prompt_id, safe='')}").get(prompt_id)
        return entry if isinstance(entry, dict) else None

    def _queued(self, prompt_id: str) -> bool:
        queue = self._json("/queue")
        return any(entry[1] == prompt_id for entry in [*queue["queue_running"], *queue["queue_pending"]])

    def _drop(self, prompt_id: str) -> None:
        """Out of the queue if it waits, interrupted if it runs. In this order: what waits may begin in between."""
        self._request("POST", "/queue", json={"delete": [prompt_id]})
        self._request("POST", "/interrupt", json={"prompt_id": prompt_id})

    def _take_back(self, prompt_id: str) -> None:
        """Drop a prompt and wait until it is out of ComfyUI, so that no file of it appears later.

        Even one that was refused: what ComfyUI answers with a 500, or with errors of some nodes, it may run all the same.
        """
        end = time.monotonic() + _TAKE_BACK_S
        try:
            self._drop(prompt_id)
            while self._queued(prompt_id) and time.monotonic() < end:
                time.sleep(_POLL_INTERVAL_S)
            self.forget(prompt_id)
        except ComfyError as exc:
            logger.warning("prompt %s: it could not be taken back: %s", prompt_id, exc.message)

    def _json(self, path: str, **options: Any) -> Any:
        answer = self._get(path, **options)
        if not answer.ok:
            raise ComfyError(f"ComfyUI answered {answer.status_code} to GET {path}.")
        return _parsed(answer, f"GET {path}")

    def _get(self, path: str, **options: Any) -> requests.Response:
        return self._request("GET", path, **options)

    def _request(self, method: str, path: str, **options: Any) -> requests.Response:
        return self._send(self._session, method, path, **options)

    def _send(self, session: requests.Session, method: str, path: str, **options: Any) -> requests.Response:
        options.setdefault("timeout", (_CONNECT_TIMEOUT_S, _HTTP_TIMEOUT_S))
        try:
            return session.request(method, self.url + path, allow_redirects=False, **options)
        except requests.RequestException as exc:
            raise ComfyUnreachable("ComfyUI does not answer.") from exc


def _parsed(answer: requests.Response, what: str) -> Any:
    """The JSON that ComfyUI sent. Its own has NaN and Infinity in it, which JSON has not and orjson refuses: a node's
    IS_CHANGED often gives NaN, and limits of inputs are infinite."""
    try:
        return orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        logger.debug("ComfyUI's answer to %s is not strict JSON", what)
    try:
        return json.loads(answer.content)
    except ValueError as exc:
        raise ComfyError(f"ComfyUI's answer to {what} is not JSON.") from exc


def _session() -> requests.Session:
    """ComfyUI is never reached through a proxy of the environment. Only reads are repeated: they change nothing."""
    session = requests.Session()
    session.trust_env = False
    # One more try, for a connection that was kept open and closed by ComfyUI in that moment.
    retry = Retry(total=1, connect=0, allowed_methods={"GET", "HEAD"}, raise_on_status=False)
    adapter = HTTPAdapter(pool_maxsize=64, max_retries=retry)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session
