"""The only speaker to ComfyUI."""

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
from handler.errors import ComfyCrashed, ComfyError, ComfyUnreachable, HandlerError
from handler.graphs.graph import Graph
from handler.graphs.node_classes import NodeClass, node_class
from handler.ticket import Ticket

logger = logging.getLogger(__name__)

_PROBE_TIMEOUT_S = 2


@dataclass(frozen=True)
class Execution:
    """A finished run: ComfyUI's history entry, and when each node that ran began and ended, in ms since the epoch."""

    entry: Mapping[str, Any]
    node_started: Mapping[str, int]
    node_ended: Mapping[str, int]


class ComfyClient:
    """A conversation with one ComfyUI. Safe to use from many threads.

    Prompts in a ComfyUI that has not answered for `patience_s` are given up; who looks after it knows earlier, and tells the
    `line`.
    """

    def __init__(
        self, url: str, *, inflight: int = 2, patience_s: float = 60, whereabouts: Callable[..., str] = lambda *_: ""
    ) -> None:
        self.url = url
        self.line = Admission(inflight)
        self.patience_s = patience_s
        self._whereabouts = whereabouts
        self._http = ComfyHttp(url)
        self._queue = ComfyQueue(self._http, self.line, lambda: self.patience_s)
        self._classes: dict[str, NodeClass] = {}
        self._options: dict[tuple[str, str], list[str]] = {}

    def alive(self) -> bool:
        """Whether ComfyUI answers. Until all its nodes are loaded its port is closed."""
        try:
            return self._http.ask("GET", "/system_stats", timeout_s=_PROBE_TIMEOUT_S).ok
        except ComfyUnreachable:
            return False

    @property
    def silent_s(self) -> float:
        """For how long it has answered nothing that it was asked."""
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
            self._options[key] = errors.list_options(spec) if spec else []
        return self._options[key]

    def model_folders(self) -> list[str]:
        """The names of the model folders."""
        return [str(folder) for folder in self._http.json("/models")]

    def folder_paths(self) -> dict[str, list[str]]:
        """Where ComfyUI looks for each kind of model; {} when it does not tell: it promises so to its front end alone."""
        try:
            told = self._http.json("/internal/folder_paths")
        except ComfyError:
            return {}
        return told if isinstance(told, dict) else {}

    def models(self) -> dict[str, list[str]]:
        """The names in each model folder."""
        return {folder: self._http.json(f"/models/{quote(folder, safe='')}") for folder in self.model_folders()}

    def queue_remaining(self) -> int:
        """How many prompts wait or run in ComfyUI's own queue, whoever put them there."""
        return self._queue.remaining()

    def has_input(self, name: str) -> bool:
        """Whether a file of this name is in the input folder."""
        subfolder, _, filename = name.rpartition("/")
        query = {"filename": filename, "subfolder": subfolder, "type": "input"}
        return bool(filename) and self._http.ask("HEAD", "/view", params=query).status_code == requests.codes.ok

    def upload(self, file: Path, subfolder: str) -> None:
        """Put a file into the input folder of a ComfyUI that has another disk than ours."""
        with file.open("rb") as content:
            form = {"subfolder": subfolder, "type": "input", "overwrite": "true"}
            answer = self._http.ask("POST", "/upload/image", data=form, files={"image": (file.name, content)})
        if not answer.ok:
            raise ComfyError(f"ComfyUI answered {answer.status_code} to the upload of an input.")

    def view(self, *, filename: str, subfolder: str, kind: str) -> bytes | None:
        """A file of ComfyUI's; None when it has no such file."""
        answer = self._http.ask("GET", "/view", params={"filename": filename, "subfolder": subfolder, "type": kind})
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

        Should ComfyUI end under the prompt it runs once more, in the one that is there then: with two prompts inside, one of
        them is not to blame. Raises PromptRejected, PromptFailed, PromptTimeout, ComfyCrashed, PromptInterrupted, or whatever
        the ticket is cancelled with; after any of them the prompt is no longer in ComfyUI's queue, if ComfyUI lives.
        """
        run = partial(self._run, graph, ticket, deadline, extra_data or {}, on_turn, on_message)
        try:
            execution = run()
        except ComfyCrashed as exc:
            ticket.check()
            if ticket.urgent:
                raise
            logger.warning("prompt %s: %s It runs once more.", ticket.prompt_id, exc.message)
            execution = run()
        ticket.check()
        errors.raise_failure(execution.entry, graph)
        return execution

    def _run(
        self,
        graph: Graph,
        ticket: Ticket,
        deadline: float,
        extra_data: Mapping[str, Any],
        on_turn: Callable[[], None],
        on_message: Callable[[Message], None],
    ) -> Execution:
        sought = partial(self._whereabouts, self._classes, self.folder_paths)
        # A refusal is worded after the turn: looking for a model that is missing takes its time.
        with errors.worded(graph, self.options, sought), self.line.turn(ticket, deadline) as breaks:
            on_turn()
            # Listen first: a cached graph finishes before POST /prompt answers.
            with closing(PromptListener(self.url, ticket.prompt_id, on_message)) as watch:
                try:
                    self._queue.put(graph, ticket.prompt_id, watch, extra_data)
                    self.line.entered(ticket)
                    entry = self._queue.end(ticket, watch, deadline, breaks)
                except ComfyCrashed:
                    raise
                except BaseException:
                    self._queue.take_back(ticket.prompt_id, breaks)
                    raise
        return Execution(entry, watch.node_started, watch.node_ended)

    def interrupt(self, ticket: Ticket, reason: HandlerError | None = None) -> str | None:
        """End a request, by default with PromptInterrupted, and say where it was: "queued" before its prompt's turn, or
        "running"; None when it cannot be ended any more."""
        was = self.line.cancel(ticket, reason)
        if was == "running":
            try:
                self._queue.drop(ticket.prompt_id)
            except ComfyUnreachable:
                # Whoever waits for the prompt there tries it again.
                logger.warning("prompt %s: ComfyUI does not answer to its interruption", ticket.prompt_id)
        return was

    def free(self) -> None:
        """Let ComfyUI unload its models and drop what it has cached, before the next prompt.

        It does so on its prompt thread as soon as that is idle; nothing tells when it has been done.
        """
        self._queue.order("/free", {"unload_models": True, "free_memory": True})

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The entry of a finished prompt; None while it waits or runs, or for one that is not known."""
        return self._queue.history(prompt_id)

    def forget(self, prompt_id: str) -> None:
        """Remove a finished prompt from ComfyUI's history."""
        self._queue.forget(prompt_id)
