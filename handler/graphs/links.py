"""Checks the links of a graph. ComfyUI skips outputs with invalid links silently, or its worker ends."""

import graphlib
from typing import Any

from handler.errors import PromptRejected
from handler.graphs.graph import Graph, describe_node
from handler.graphs.node_classes import NodeClasses

# ComfyUI follows links by recursion, and its worker ends with a RecursionError: with 0.3.64, chains of more than 960 nodes.
# Graphs in use have some dozens.
_MAX_CHAIN = 500
_MAX_SHOWN = 10


def check_links(graph: Graph, classes: NodeClasses) -> None:
    """Raise PromptRejected for a cycle, a chain that is too long, or a link to a missing node if an output needs it."""
    sources = {node_id: _sources(graph, node_id) for node_id in graph}
    used = _used(graph, classes, sources)
    for node_id, links in sources.items():
        for name, source in links.items():
            if source not in graph and node_id in used:
                where = describe_node(node_id, graph[node_id])
                raise PromptRejected(
                    f"{where[0].upper()}{where[1:]}: {name} is linked to node {source!r}, which is not in the prompt.",
                    location=f"prompt.{node_id}.inputs.{name}",
                )
    _check_chains({node_id: [one for one in found.values() if one in graph] for node_id, found in sources.items()})


def _check_chains(sources: dict[str, list[str]]) -> None:
    length: dict[str, int] = {}
    try:
        for node_id in graphlib.TopologicalSorter(sources).static_order():
            length[node_id] = 1 + max((length[source] for source in sources[node_id]), default=0)
    except graphlib.CycleError as exc:
        cycle = [str(node_id) for node_id in exc.args[1]]
        shown = " → ".join(cycle if len(cycle) <= _MAX_SHOWN else [*cycle[:_MAX_SHOWN], "..."])
        raise PromptRejected(f"The prompt has a cycle: {shown}.", location=f"prompt.{cycle[0]}") from exc
    if max(length.values(), default=0) > _MAX_CHAIN:
        raise PromptRejected(f"More than {_MAX_CHAIN} nodes are linked in a row.", location="prompt")


def _used(graph: Graph, classes: NodeClasses, sources: dict[str, dict[str, str]]) -> set[str]:
    """The nodes that outputs need. An unknown class counts as an output."""
    kinds = ((node_id, classes.get(node["class_type"])) for node_id, node in graph.items())
    ahead = [node_id for node_id, known in kinds if known is None or known.output]
    found: set[str] = set()
    while ahead:
        node_id = ahead.pop()
        if node_id in graph and node_id not in found:
            found.add(node_id)
            ahead += sources[node_id].values()
    return found


def _sources(graph: Graph, node_id: str) -> dict[str, str]:
    """Input name to the node that it is linked to."""
    return {name: value[0] for name, value in graph[node_id]["inputs"].items() if _is_link(value)}


def _is_link(value: Any) -> bool:
    """Whether the value is a link, by ComfyUI's rule."""
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int | float)
    )
