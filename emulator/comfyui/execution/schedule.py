"""The order in which nodes run, and the signatures that the cache uses as keys."""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from emulator.comfyui.execution.queue import Graph


def is_link(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int | float)
    )


def inputs_of(node: dict[str, Any]) -> dict[str, Any]:
    """A node's inputs. A node that no output needs is not validated, so they may be missing."""
    inputs = node.get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def node_signatures(graph: Graph) -> dict[str, str]:
    """Node id to a hash that is equal for nodes of the same class, values and sources."""
    found: dict[str, str] = {}

    def signature(node_id: str) -> str:
        if node_id not in found:
            node = graph[node_id]
            inputs = {
                name: ["link", signature(value[0]) if value[0] in graph else value[0], value[1]]
                if is_link(value)
                else ["value", value]
                for name, value in inputs_of(node).items()
            }
            text = json.dumps([node["class_type"], node.get("is_changed"), inputs], sort_keys=True)
            found[node_id] = hashlib.sha256(text.encode()).hexdigest()
        return found[node_id]

    # a cycle may be in a part of the graph that no output needs
    for node_id in graph:
        try:
            signature(node_id)
        except RecursionError:
            found[node_id] = uuid.uuid4().hex
    return found


class DependencyCycleError(Exception):
    """The links form a cycle, through inputs that the validation ignores."""


class Schedule:
    """The nodes that the outputs need and that are not cached, in topological order."""

    def __init__(self, graph: Graph, is_output: Callable[[str], bool], is_cached: Callable[[str], bool]) -> None:
        self.graph = graph
        self.is_output = is_output
        self.is_cached = is_cached
        # node to the nodes that depend on it, and node to its unfinished dependencies
        self.blocking: dict[str, set[str]] = {}
        self.waits_for: dict[str, set[str]] = {}

    def run(self, outputs: Iterable[str]) -> Iterator[str]:
        """Yield the next node. The caller asks again when that node is done."""
        for output in outputs:
            self._add(output)
        while self.waits_for:
            ready = [node_id for node_id, sources in self.waits_for.items() if not sources]
            if not ready:
                raise DependencyCycleError("Dependency cycle detected")
            node_id = self._pick(ready)
            yield node_id
            del self.waits_for[node_id]
            for waiting in self.blocking.pop(node_id):
                self.waits_for[waiting].discard(node_id)

    def _add(self, output: str) -> None:
        stack, links = [output], []
        while stack:
            node_id = stack.pop()
            if node_id in self.waits_for:
                continue
            self.waits_for[node_id] = set()
            self.blocking[node_id] = set()
            for value in inputs_of(self.graph[node_id]).values():
                if is_link(value) and not self.is_cached(value[0]):
                    stack.append(value[0])
                    links.append((value[0], node_id))
        for source, node_id in links:
            self.waits_for[node_id].add(source)
            self.blocking[source].add(node_id)

    def _pick(self, ready: list[str]) -> str:
        """Prefer outputs, then nodes close to an output, so that results show early."""
        reach = [{node_id} for node_id in ready]
        for _ in range(3):
            for node_id, nodes in zip(ready, reach, strict=True):
                if any(self.is_output(near) for near in nodes):
                    return node_id
            reach = [{further for near in nodes for further in self.blocking[near]} for nodes in reach]
        return ready[0]
