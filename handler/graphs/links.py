"""Which links of a graph ComfyUI cannot follow: it leaves outputs out without a word then, or its worker dies of them."""

import graphlib
from typing import Any

from handler.errors import PromptRejected
from handler.graphs.graph import Graph, describe_node
from handler.graphs.node_classes import NodeClasses

# ComfyUI follows links by recursion, in a worker that does not survive a RecursionError: of 0.3.64 the last that ran were
# 960 nodes in a row. Graphs in use have some dozens.
_LONGEST_CHAIN = 500
_LONGEST_SHOWN = 10


def check_links(graph: Graph, classes: NodeClasses) -> None:
    """Raise PromptRejected for a link to nowhere in what leads to an output, for a cycle, and for a chain that is too long."""
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
        shown = " → ".join(cycle if len(cycle) <= _LONGEST_SHOWN else [*cycle[:_LONGEST_SHOWN], "..."])
        raise PromptRejected(f"The prompt has a cycle: {shown}.", location=f"prompt.{cycle[0]}") from exc
    if max(length.values(), default=0) > _LONGEST_CHAIN:
        raise PromptRejected(f"More than {_LONGEST_CHAIN} nodes are linked in a row.", location="prompt")


def _used(graph: Graph, classes: NodeClasses, sources: dict[str, dict[str, str]]) -> set[str]:
    """The nodes that lead to an output. A class that ComfyUI does not have may be one."""
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
    """As ComfyUI tells it, of inputs that the node declares and of others."""
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int | float)
    )
