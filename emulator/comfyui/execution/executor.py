"""Runs a prompt: its nodes, the node cache, the interruption."""

import threading
import traceback
from dataclasses import dataclass
from typing import Any

from emulator.comfyui import Folders
from emulator.comfyui.execution.clients import Clients
from emulator.comfyui.execution.errors import exception_type
from emulator.comfyui.execution.messages import Messages
from emulator.comfyui.execution.queue import Entry, Graph, Outcome
from emulator.comfyui.execution.schedule import Schedule, inputs_of, is_link, node_signatures
from emulator.comfyui.nodes import NodeClasses, free_memory

OUT_OF_MEMORY_TIPS = (
    "This error means you ran out of memory on your GPU.\n\n"
    "TIPS: If the workflow worked before you might have accidentally set the batch_size to a large number."
)


class Interrupted(Exception):
    """The running prompt was asked to stop."""


@dataclass(frozen=True)
class Cached:
    """The result of a node: its outputs for other nodes, and its entry of the history's outputs."""

    outputs: tuple[Any, ...]
    shown: dict[str, Any] | None


class Executor:
    """Runs prompts. Keeps the node cache from one prompt to the next, and the interrupt flag."""

    def __init__(self, nodes: NodeClasses, folders: Folders, clients: Clients, step_seconds: float) -> None:
        self.nodes = nodes
        self.folders = folders
        self.clients = clients
        self.step_seconds = step_seconds
        self.cache: dict[str, Cached] = {}
        self.interrupt = threading.Event()

    def execute(self, entry: Entry) -> Outcome:
        self.interrupt.clear()
        run = Run(self, entry)
        try:
            return run.execute()
        except Exception as exc:  # noqa: BLE001 - a cycle, for example; ComfyUI's own worker may end
            return run.fail(exc)

    def free_memory(self) -> None:
        """POST /free with `free_memory`."""
        self.cache.clear()
        free_memory()


class Run:
    """The run of one prompt; also the context of its nodes."""

    def __init__(self, executor: Executor, entry: Entry) -> None:
        self.executor = executor
        self.folders = executor.folders
        self.step_seconds = executor.step_seconds
        _, self.prompt_id, graph, self.extra_data, self.outputs = entry
        # copies: the run adds is_changed to nodes, and /queue shows the originals
        self.graph: Graph = {node_id: dict(node) for node_id, node in graph.items()}
        client_id = self.extra_data.get("client_id")
        self.client_id = None if client_id is None else str(client_id)
        self.signatures: dict[str, str] = {}
        self.messages = Messages(executor.clients, self.prompt_id, self.client_id)
        self.executed: list[str] = []
        self.node_id = ""
        self.node_inputs: dict[str, Any] = {}

    def execute(self) -> Outcome:
        clients = self.executor.clients
        clients.client_id = self.client_id
        self.messages.record("execution_start", {"prompt_id": self.prompt_id})
        self._prune_cache()
        cached = [node_id for node_id in self.graph if self._cached(node_id)]
        self.messages.record("execution_cached", {"nodes": cached, "prompt_id": self.prompt_id})
        status = self._run_nodes()
        clients.last_node = None
        # includes nodes that did not run: equal nodes share a cached result, which names the first of them
        hits = ((node_id, self._cached(node_id)) for node_id in self.graph)
        shown = {node_id: hit.shown for node_id, hit in hits if hit and hit.shown}
        outputs = {node_id: both["output"] for node_id, both in shown.items()}
        meta = {node_id: both["meta"] for node_id, both in shown.items()}
        return Outcome(status, self.messages.recorded, outputs, meta)

    def fail(self, exc: Exception) -> Outcome:
        """The outcome of a prompt that failed outside of its nodes."""
        self.node_id = self.node_id or self.outputs[0]
        self.messages.record("execution_error", self._failure(exc))
        return Outcome("error", self.messages.recorded)

    def progress(self, value: int, total: int, image: tuple[str, bytes] | None = None) -> None:
        """Report a step to the clients, with a preview if there is one. Raises Interrupted."""
        self._check_interrupt()
        self.messages.step(self.node_id, value, total, image)

    def pause(self, seconds: float) -> None:
        """Wait. Raises Interrupted as soon as the prompt is interrupted."""
        self.executor.interrupt.wait(seconds)
        self._check_interrupt()

    def _prune_cache(self) -> None:
        """Compute the signatures, and drop the cached results that this prompt does not use."""
        for node in self.graph.values():
            inputs = {name: value for name, value in inputs_of(node).items() if not is_link(value)}
            changed = self.executor.nodes[node["class_type"]].is_changed(self.folders, inputs)
            if changed is not None:
                node["is_changed"] = [changed]
        self.signatures = node_signatures(self.graph)
        wanted = set(self.signatures.values())
        self.executor.cache = {key: hit for key, hit in self.executor.cache.items() if key in wanted}

    def _run_nodes(self) -> str:
        schedule = Schedule(
            self.graph,
            is_output=lambda node_id: self.executor.nodes[self.graph[node_id]["class_type"]].output_node,
            is_cached=lambda node_id: self._cached(node_id) is not None,
        )
        for node_id in schedule.run(self.outputs):
            self.node_id, self.node_inputs = node_id, {}
            try:
                self._run_node(node_id)
            except Interrupted:
                facts = {"prompt_id": self.prompt_id, "node_id": node_id, "node_type": self._class_type()}
                self.messages.record("execution_interrupted", {**facts, "executed": self.executed}, broadcast=True)
                return "error"
            except Exception as exc:  # noqa: BLE001 - a node may raise anything; only its prompt fails
                self.messages.record("execution_error", self._failure(exc))
                return "error"
        self.messages.record("execution_success", {"prompt_id": self.prompt_id})
        return "success"

    def _run_node(self, node_id: str) -> None:
        hit = self._cached(node_id)
        names = {"node": node_id, "display_node": node_id}
        if hit is not None:
            output = hit.shown["output"] if hit.shown else None
            self.messages.send("executed", {**names, "output": output, "prompt_id": self.prompt_id})
            self.messages.finish_node(node_id)
            return
        self.messages.start_node(node_id)
        if self.client_id is not None:
            self.executor.clients.last_node = node_id
        self.messages.send("executing", {**names, "prompt_id": self.prompt_id})
        outputs, ui = self._call(node_id)
        shown = None
        if ui is not None:
            meta = {"node_id": node_id, "display_node": node_id, "parent_node": None, "real_node_id": node_id}
            shown = {"meta": meta, "output": ui}
            self.messages.send("executed", {**names, "output": ui, "prompt_id": self.prompt_id})
        self.executor.cache[self.signatures[node_id]] = Cached(outputs, shown)
        self.executed.append(node_id)
        self.messages.finish_node(node_id)

    def _call(self, node_id: str) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
        """Run one node. It returns a tuple of outputs, or a dict with "result" and "ui"."""
        cls = self.executor.nodes[self.graph[node_id]["class_type"]]
        self.node_inputs = self._gather(node_id)
        self._check_interrupt()
        returned = getattr(cls(self), cls.function)(**self.node_inputs)
        if isinstance(returned, dict):
            return returned.get("result", ()), returned.get("ui")
        return returned, None

    def _gather(self, node_id: str) -> dict[str, Any]:
        """A node's arguments: its declared values, the results behind its links, and its hidden inputs."""
        cls = self.executor.nodes[self.graph[node_id]["class_type"]]
        known = {**cls.required, **cls.optional}
        arguments: dict[str, Any] = {}
        for name, value in inputs_of(self.graph[node_id]).items():
            if is_link(value):
                source = self._cached(value[0])
                arguments[name] = source.outputs[value[1]] if source else None
            elif name in known:
                arguments[name] = value
        facts = {"PROMPT": self.graph, "EXTRA_PNGINFO": self.extra_data.get("extra_pnginfo"), "UNIQUE_ID": node_id}
        return arguments | {name: facts[fact] for name, fact in cls.hidden.items()}

    def _failure(self, exc: Exception) -> dict[str, Any]:
        tips = OUT_OF_MEMORY_TIPS if type(exc).__name__ == "OutOfMemoryError" else ""
        return {
            "prompt_id": self.prompt_id,
            "node_id": self.node_id,
            "node_type": self._class_type(),
            "executed": self.executed,
            "exception_message": f"{exc}\n{tips}",
            "exception_type": exception_type(exc),
            "traceback": traceback.format_tb(exc.__traceback__),
            "current_inputs": {name: [_to_json_value(value)] for name, value in self.node_inputs.items()},
            "current_outputs": list(self.graph),
        }

    def _check_interrupt(self) -> None:
        if self.executor.interrupt.is_set():
            self.executor.interrupt.clear()
            raise Interrupted

    def _cached(self, node_id: str) -> Cached | None:
        return self.executor.cache.get(self.signatures.get(node_id, ""))

    def _class_type(self) -> str:
        return str(self.graph[self.node_id]["class_type"])


def _to_json_value(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float | str) else str(value)
