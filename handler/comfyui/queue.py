"""ComfyUI's own queue and history: a prompt is submitted, waited for, withdrawn, forgotten."""

import logging
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import requests

from handler.comfyui.admission import Slot
from handler.comfyui.errors import PromptRefused
from handler.comfyui.http import ComfyHttp, parsed
from handler.comfyui.websocket import PromptListener
from handler.errors import ComfyCrashed, ComfyError, ComfyUnreachable
from handler.graphs import Graph

logger = logging.getLogger(__name__)

_PROBE_TIMEOUT_S = 2
# For questions that are repeated, and for orders that must not be waited for: a ComfyUI that loads a model may not answer for
# many seconds, and one that hangs never does.
_POLL_TIMEOUT_S = 3
# A quiet websocket may be a dead one: the history is asked this often whatever the socket says.
_HISTORY_INTERVAL_S = 1.0
_RETRY_INTERVAL_S = 0.25
# ComfyUI writes the history entry just after it announces the end; a missing entry is believed only after this long.
_HISTORY_LAG_S = 2.0
_WITHDRAW_TIMEOUT_S = 8.0


class ComfyQueue:
    """The prompts that are inside ComfyUI. Safe to use from many threads."""

    def __init__(self, http: ComfyHttp) -> None:
        self._http = http
        # The prompts that ComfyUI may know.
        self._submitted: set[str] = set()

    def remaining(self) -> int:
        """How many prompts wait or run in it, whoever submitted them."""
        return int(self._http.json("/prompt", timeout_s=_PROBE_TIMEOUT_S)["exec_info"]["queue_remaining"])

    def submit(self, graph: Graph, prompt_id: str, listener: PromptListener, extra_data: Mapping[str, Any]) -> None:
        """Raises PromptRefused, or ComfyError. Without an answer the prompt may be in the queue or not: `wait` finds out."""
        body = {"prompt": graph, "client_id": listener.client_id, "prompt_id": prompt_id}
        if extra_data:
            body["extra_data"] = dict(extra_data)
        self._submitted.add(prompt_id)
        try:
            answer = self._http.post_once("/prompt", body)
        except ComfyUnreachable:
            listener.broken = True
            return
        if not answer.ok and answer.status_code != requests.codes.bad_request:
            raise ComfyError(f"ComfyUI answered {answer.status_code} to the prompt; its log says why.")
        # Also for a 200: ComfyUI would run the valid outputs only, and call that a success.
        body = parsed(answer, "the prompt")
        if not answer.ok or body.get("node_errors"):
            raise PromptRefused(body)

    def wait(self, slot: Slot, listener: PromptListener) -> Mapping[str, Any]:
        """The history entry, which alone says how a prompt ended; the websocket says when to look for it.

        A ComfyUI that does not answer may be busy: the wait goes on until the slot says that it ended, or it has not answered
        for longer than its hang time-out. Raises ComfyCrashed, PromptTimeout, PromptInterrupted, or the ticket's reason.
        """
        prompt_id, missing_since = slot.ticket.prompt_id, None
        while True:
            slot.check()
            finished = listener.wait(min(_HISTORY_INTERVAL_S, max(0.0, slot.deadline - time.monotonic())))
            try:
                if entry := self.history(prompt_id):
                    return entry
                missing = finished or not self._holds(prompt_id)
            except ComfyUnreachable as exc:
                if self._http.is_silent:
                    raise ComfyCrashed("ComfyUI went away while the prompt was in it.") from exc
                time.sleep(_RETRY_INTERVAL_S)
                continue
            if not missing:
                missing_since = None
                continue
            missing_since = missing_since or time.monotonic()
            if time.monotonic() - missing_since > _HISTORY_LAG_S:
                raise listener.why_missing()
            time.sleep(0.005)

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The entry of a finished prompt; None while it waits or runs, or for an unknown one."""
        path = f"/history/{quote(prompt_id, safe='')}"
        entry = self._http.json(path, timeout_s=_POLL_TIMEOUT_S).get(prompt_id)
        return entry if isinstance(entry, dict) else None

    def cancel(self, prompt_id: str) -> None:
        """Delete a prompt that waits, interrupt one that runs. In this order: a waiting one may start in between."""
        self.post("/queue", {"delete": [prompt_id]})
        self.post("/interrupt", {"prompt_id": prompt_id})

    def withdraw(self, slot: Slot) -> None:
        """Cancel a prompt and wait until it is out of ComfyUI, so that no file of it appears later.

        Even a refused one: what ComfyUI answers with a 500, or with errors of some nodes, it may run all the same.
        """
        prompt_id, end = slot.ticket.prompt_id, time.monotonic() + _WITHDRAW_TIMEOUT_S
        while not slot.is_lost:
            try:
                self.cancel(prompt_id)
                if not self._holds(prompt_id):
                    self.forget(prompt_id)
                    return
            except ComfyError as exc:
                logger.debug("prompt %s: %s", prompt_id, exc.message)
            if time.monotonic() > end:
                logger.warning("prompt %s: ComfyUI does not let go of it", prompt_id)
                return
            time.sleep(_RETRY_INTERVAL_S)

    def forget(self, prompt_id: str) -> None:
        """Remove a finished prompt from the history. Asks nothing for one that was never submitted."""
        if prompt_id in self._submitted:
            self._submitted.discard(prompt_id)
            self.post("/history", {"delete": [prompt_id]})

    def free(self) -> None:
        """See `ComfyClient.free`."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def post(self, path: str, body: Mapping[str, Any]) -> None:
        """An order to ComfyUI, to which it answers nothing."""
        self._http.request("POST", path, json=body, timeout_s=_POLL_TIMEOUT_S)

    def _holds(self, prompt_id: str) -> bool:
        queue = self._http.json("/queue", timeout_s=_POLL_TIMEOUT_S)
        return any(entry[1] == prompt_id for entry in [*queue["queue_running"], *queue["queue_pending"]])
