"""The client of one ComfyUI: what it offers, its files, and running a graph on it."""

import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from handler.comfyui import errors
from handler.comfyui.admission import Admission
from handler.comfyui.http import ComfyHttp
from handler.comfyui.queue import ComfyQueue
from handler.comfyui.websocket import Message, PromptListener
from handler.errors import ComfyCrashed, ComfyError, ComfyUnreachable, GpuLost, HandlerError
from handler.graphs import Graph, NodeClass, node_class
from handler.models import ModelSearch
from handler.ticket import Ticket

logger = logging.getLogger(__name__)

_PROBE_TIMEOUT_S = 2


@dataclass(frozen=True)
class Execution:
    """A finished run: ComfyUI's history entry, and when each node that ran started and ended, in ms since the epoch."""

    entry: Mapping[str, Any]
    node_started: Mapping[str, int]
    node_ended: Mapping[str, int]


class ComfyClient:
    """Speaks to one ComfyUI. Safe to use from many threads.

    At most `inflight` prompts are inside it at once; the others wait in `admission`. Prompts in a ComfyUI that has not answered
    for `hang_timeout_s` are given up; it is infinite where somebody watches the process and pauses `admission` when it ends.
    `on_gpu_lost` is called when a prompt failed in a way that all later ones will.
    """

    def __init__(
        self, url: str, *, inflight: int = 2, hang_timeout_s: float = 60, model_search: ModelSearch | None = None
    ) -> None:
        self.url = url
        self.admission = Admission(inflight)
        self.on_gpu_lost: Callable[[], None] = lambda: None
        self._model_search = model_search
        self._http = ComfyHttp(url, hang_timeout_s)
        self._queue = ComfyQueue(self._http)
        self._classes: dict[str, NodeClass] = {}
        self._options: dict[tuple[str, str], list[str]] = {}

    @property
    def hang_timeout_s(self) -> float:
        return self._http.hang_timeout_s

    @hang_timeout_s.setter
    def hang_timeout_s(self, seconds: float) -> None:
        self._http.hang_timeout_s = seconds

    def alive(self) -> bool:
        """Whether ComfyUI answers. Until all its nodes are loaded its port is closed."""
        try:
            return self._http.request("GET", "/system_stats", timeout_s=_PROBE_TIMEOUT_S).ok
        except ComfyUnreachable:
            return False

    @property
    def silent_s(self) -> float:
        """For how long it has answered no request."""
        return self._http.silent_s

    def devices(self) -> list[str]:
        """What ComfyUI computes on: "cuda", "cpu" and the like."""
        return [str(device["type"]) for device in self._http.json("/system_stats")["devices"]]

    def info(self, class_type: str) -> dict[str, Any]:
        """ComfyUI's declaration of a node class; {} for one that it does not have."""
        answer = self._http.json(f"/object_info/{quote(class_type, safe='')}") if class_type else {}
        found = answer.get(class_type)
        return found if isinstance(found, dict) else {}

    def classes(self, graph: Graph) -> dict[str, NodeClass | None]:
        """What a graph needs to know of the classes that it uses. Asked once per class: only a restart changes them."""
        names = {node["class_type"] for node in graph.values()}
        for name in names - self._classes.keys():
            if info := self.info(name):
                self._classes[name] = node_class(name, info)
        return {name: self._classes.get(name) for name in names}

    def options(self, class_type: str, name: str, *, fresh: bool = True) -> list[str]:
        """The values that ComfyUI offers for an input; [] for an input that is not a list.

        Without `fresh` they may be as old as the last time that somebody asked.
        """
        key = (class_type, name)
        if fresh or key not in self._options:
            declared = self.info(class_type).get("input") or {}
            spec = next((group[name] for group in declared.values() if name in group), None)
            self._options[key] = errors.list_options(spec) if spec else []
        return self._options[key]

    def model_folders(self) -> list[str]:
        """The names of the model folders."""
        return [str(folder) for folder in self._http.json("/models")]

    def folder_paths(self) -> dict[str, list[str]]:
        """Where ComfyUI looks for each kind of model; {} when it does not say: the route is meant for its front end alone."""
        try:
            answer = self._http.json("/internal/folder_paths")
        except ComfyError:
            return {}
        return answer if isinstance(answer, dict) else {}

    def models(self) -> dict[str, list[str]]:
        """The names in each model folder."""
        return {folder: self._http.json(f"/models/{quote(folder, safe='')}") for folder in self.model_folders()}

    def queue_remaining(self) -> int:
        """How many prompts wait or run in ComfyUI's own queue, whoever submitted them."""
        return self._queue.remaining()

    def has_input(self, name: str) -> bool:
        """Whether a file of this name is in the input folder."""
        subfolder, _, filename = name.rpartition("/")
        query = {"filename": filename, "subfolder": subfolder, "type": "input"}
        return bool(filename) and self._http.request("HEAD", "/view", params=query).status_code == requests.codes.ok

    def upload(self, file: Path, subfolder: str) -> None:
        """Put a file into the input folder of a ComfyUI that has another disk than ours."""
        with file.open("rb") as content:
            form = {"subfolder": subfolder, "type": "input", "overwrite": "true"}
            answer = self._http.request("POST", "/upload/image", data=form, files={"image": (file.name, content)})
        if not answer.ok:
            raise ComfyError(f"ComfyUI answered {answer.status_code} to the upload of an input.")

    def view(self, *, filename: str, subfolder: str, kind: str) -> bytes | None:
        """The content of a file in ComfyUI's folders; None when there is no such file."""
        query = {"filename": filename, "subfolder": subfolder, "type": kind}
        answer = self._http.request("GET", "/view", params=query)
        return answer.content if answer.ok else None

    def run(
        self,
        graph: Graph,
        ticket: Ticket,
        *,
        deadline: float,
        extra_data: Mapping[str, Any] | None = None,
        on_admitted: Callable[[], None] = lambda: None,
        on_message: Callable[[Message], None] = lambda _: None,
    ) -> Execution:
        """Run a graph to its end. `ticket` must be fresh, `deadline` is in seconds of time.monotonic.

        Should ComfyUI end meanwhile, the prompt runs once more in the next one: of two prompts inside, one is not to blame.
        `on_admitted` is called before each of the two tries. Raises PromptRejected, PromptFailed, PromptTimeout, ComfyCrashed,
        PromptInterrupted, or what the ticket is cancelled with; a ComfyUI that lives has the prompt no longer in its queue then.
        """
        run = partial(self._run_once, graph, ticket, deadline, extra_data or {}, on_admitted, on_message)
        try:
            execution = run()
        except ComfyCrashed as exc:
            ticket.check()
            if ticket.urgent:
                raise
            logger.warning("prompt %s: %s It runs once more.", ticket.prompt_id, exc.message)
            execution = run()
        ticket.check()
        try:
            errors.raise_failure(execution.entry, graph)
        except GpuLost:
            self.on_gpu_lost()
            raise
        return execution

    def _run_once(
        self,
        graph: Graph,
        ticket: Ticket,
        deadline: float,
        extra_data: Mapping[str, Any],
        on_admitted: Callable[[], None],
        on_message: Callable[[Message], None],
    ) -> Execution:
        # A refusal is explained after the slot is free again: to look for a missing model takes its time.
        explained = errors.explain_refusals(graph, self.options, self._where_searched)
        with explained, self.admission.admit(ticket, deadline) as slot:
            on_admitted()
            # Listen first: a cached graph finishes before POST /prompt answers.
            with closing(PromptListener(self.url, ticket.prompt_id, on_message)) as listener:
                try:
                    self._queue.submit(graph, ticket.prompt_id, listener, extra_data)
                    slot.submitted()
                    entry = self._queue.wait(slot, listener)
                except ComfyCrashed:
                    raise
                except BaseException:
                    self._queue.withdraw(slot)
                    raise
        return Execution(entry, listener.node_started, listener.node_ended)

    def _where_searched(self, class_type: str, name: str, value: str) -> str:
        """Of the value of an input that names a missing model: where ComfyUI looked for it, as the rest of a sentence."""
        known = self._classes.get(class_type)
        kind = known.models.get(name) if known else None
        if kind is None or self._model_search is None:
            return ""
        return self._model_search.describe(kind, value, self.folder_paths)

    def interrupt(self, ticket: Ticket, reason: HandlerError | None = None) -> str | None:
        """End a request, by default with PromptInterrupted.

        Gives where it was: "queued" before its prompt was admitted, or "running"; None when it is too late to end it.
        """
        if not ticket.cancel(reason):
            return None
        state = ticket.state
        if state == "running":
            try:
                self._queue.cancel(ticket.prompt_id)
            except ComfyUnreachable:
                # Whoever waits for the prompt withdraws it as well.
                logger.warning("prompt %s: ComfyUI does not answer to its interruption", ticket.prompt_id)
        return state

    def free(self) -> None:
        """Let ComfyUI unload its models and drop what it has cached, before the next prompt.

        It does so on its prompt thread as soon as that is idle; nothing tells when it has been done.
        """
        self._queue.free()

    def forget(self, prompt_id: str) -> None:
        """Remove a finished prompt from ComfyUI's history."""
        self._queue.forget(prompt_id)
