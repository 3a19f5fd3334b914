"""ComfyUI's own queue and history: a prompt is put in, waited for, taken back, forgotten."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import requests

from handler.comfyui.admission import Admission
from handler.comfyui.errors import PromptRefused
from handler.comfyui.http import ComfyHttp, parsed
from handler.comfyui.websocket import PromptListener
from handler.errors import ComfyCrashed, ComfyError, ComfyUnreachable, PromptTimeout
from handler.graphs.graph import Graph
from handler.ticket import Ticket

logger = logging.getLogger(__name__)

_PROBE_TIMEOUT_S = 2
# For what is asked again and again, and for orders that nobody should wait for: a ComfyUI that loads a model may be deaf for
# many seconds, and one that hangs is for good.
_LOOK_TIMEOUT_S = 3
# A quiet websocket may be a dead one: this often the history is asked whatever the socket says.
_LOOK_INTERVAL_S = 1.0
_POLL_INTERVAL_S = 0.25
# ComfyUI writes the history entry just after it announces the end; "not there" is believed only after this long.
_HISTORY_LAG_S = 2.0
_TAKE_BACK_S = 8.0


class ComfyQueue:
    """The prompts that are inside ComfyUI. Safe to use from many threads."""

    def __init__(self, http: ComfyHttp, line: Admission, patience_s: Callable[[], float]) -> None:
        self._patience_s = patience_s
        self._http = http
        self._line = line
        # The prompts that ComfyUI may know.
        self._told: set[str] = set()

    def remaining(self) -> int:
        """How many prompts wait or run in it, whoever put them there."""
        return int(self._http.json("/prompt", timeout_s=_PROBE_TIMEOUT_S)["exec_info"]["queue_remaining"])

    def put(self, graph: Graph, prompt_id: str, watch: PromptListener, extra_data: Mapping[str, Any]) -> None:
        """Raises Refused, or ComfyError. Without an answer it may be in the queue or not: `end` finds out."""
        body = {"prompt": graph, "client_id": watch.client_id, "prompt_id": prompt_id}
        if extra_data:
            body["extra_data"] = dict(extra_data)
        self._told.add(prompt_id)
        try:
            answer = self._http.tell("/prompt", body)
        except ComfyUnreachable:
            watch.broken = True
            return
        if not answer.ok and answer.status_code != requests.codes.bad_request:
            raise ComfyError(f"ComfyUI answered {answer.status_code} to the prompt; its log says why.")
        # Also when it said 200: it would run the valid outputs only, and call that a success.
        told = parsed(answer, "the prompt")
        if not answer.ok or told.get("node_errors"):
            raise PromptRefused(told)

    def end(self, ticket: Ticket, watch: PromptListener, deadline: float, breaks: int) -> Mapping[str, Any]:
        """Wait for the history entry, which alone says how a prompt ended; the websocket says when to look.

        A ComfyUI that does not answer may be busy: the wait goes on until there is news of it, or the patience is over.
        """
        missing_since: float | None = None
        while True:
            ticket.check()
            if self._line.generation != breaks:
                raise ComfyCrashed("ComfyUI ended while the prompt was in it.")
            if time.monotonic() > deadline:
                raise PromptTimeout("The prompt took longer than its time limit.")
            finished = watch.wait(min(_LOOK_INTERVAL_S, max(0.0, deadline - time.monotonic())))
            try:
                if entry := self.history(ticket.prompt_id):
                    return entry
                gone = finished or not self._holds(ticket.prompt_id)
            except ComfyUnreachable as exc:
                if self._http.silent_s > self._patience_s():
                    raise ComfyCrashed("ComfyUI went away while the prompt was in it.") from exc
                time.sleep(_POLL_INTERVAL_S)
                continue
            if not gone:
                missing_since = None
                continue
            missing_since = missing_since or time.monotonic()
            if time.monotonic() - missing_since > _HISTORY_LAG_S:
                raise watch.lost()
            time.sleep(0.005)

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The entry of a finished prompt; None while it waits or runs, or for one that is not known."""
        path = f"/history/{quote(prompt_id, safe='')}"
        entry = self._http.json(path, timeout_s=_LOOK_TIMEOUT_S).get(prompt_id)
        return entry if isinstance(entry, dict) else None

    def drop(self, prompt_id: str) -> None:
        """Out of the queue if it waits, interrupted if it runs. In this order: what waits may begin in between."""
        self.order("/queue", {"delete": [prompt_id]})
        self.order("/interrupt", {"prompt_id": prompt_id})

    def take_back(self, prompt_id: str, breaks: int) -> None:
        """Drop a prompt and wait until it is out of ComfyUI, so that no file of it appears later.

        Even one that was refused: what ComfyUI answers with a 500, or with errors of some nodes, it may run all the same.
        """
        end = time.monotonic() + _TAKE_BACK_S
        while self._line.generation == breaks and not self._line.is_over:
            try:
                self.drop(prompt_id)
                if not self._holds(prompt_id):
                    self.forget(prompt_id)
                    return
            except ComfyError as exc:
                logger.debug("prompt %s: %s", prompt_id, exc.message)
            if time.monotonic() > end:
                logger.warning("prompt %s: ComfyUI does not let go of it", prompt_id)
                return
            time.sleep(_POLL_INTERVAL_S)

    def forget(self, prompt_id: str) -> None:
        """Remove a finished prompt from the history; one that was never put in takes no question."""
        if prompt_id in self._told:
            self._told.discard(prompt_id)
            self.order("/history", {"delete": [prompt_id]})

    def order(self, path: str, body: Mapping[str, Any]) -> None:
        """Something that ComfyUI has to do and answers nothing to."""
        self._http.ask("POST", path, json=body, timeout_s=_LOOK_TIMEOUT_S)

    def _holds(self, prompt_id: str) -> bool:
        queue = self._http.json("/queue", timeout_s=_LOOK_TIMEOUT_S)
        return any(entry[1] == prompt_id for entry in [*queue["queue_running"], *queue["queue_pending"]])
