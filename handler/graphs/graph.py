"""Pure functions on graphs: what is passed in is still true afterwards."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict
from typing_extensions import TypedDict

from handler.graphs.node_classes import NodeClasses


class Node(TypedDict):
    """One node of a graph in ComfyUI's API format. Other keys, such as `_meta`, are kept."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]

    class_type: str
    inputs: dict[str, Any]


Graph = dict[str, Node]


# A name on disk has at most 255 bytes, and ComfyUI adds a number and an ending.
_LONGEST_NAME = 200
_LONGEST_STEM = 100
# Of a prefix: so that with all of them the path stays below the 4,096 bytes that Linux takes.
_MOST_FOLDERS = 16
# SaveImage's own.
_DEFAULT_PREFIX = "ComfyUI"


@dataclass(frozen=True)
class MediaInput:
    """One input of one node that holds a medium given by the caller: a string, or a list of them for a folder."""

    node_id: str
    name: str
    value: str | list[str]
    medium: str

    @property
    def location(self) -> str:
        return f"prompt.{self.node_id}.inputs.{self.name}"


@dataclass(frozen=True)
class ModelInput:
    """One input of one node that names a model: a file in a model folder, or a URL."""

    node_id: str
    name: str
    value: str
    folder: str

    @property
    def location(self) -> str:
        return f"prompt.{self.node_id}.inputs.{self.name}"


def has_output(graph: Graph, classes: NodeClasses) -> bool:
    """Whether there is something to give back: an output node other than PreviewImage.

    A class that ComfyUI does not have may be one; naming it is left to ComfyUI's validation.
    """
    used = {node["class_type"] for node in graph.values()}
    return any((known := classes.get(name)) is None or (known.output and name != "PreviewImage") for name in used)


def replace_websocket_outputs(graph: Graph) -> Graph:
    """The graph with every SaveImageWebsocket as a SaveImage: its pictures would only go over the websocket, where they are
    in no history, and lost when the connection breaks."""
    return {
        node_id: {
            **node,
            "class_type": "SaveImage",
            "inputs": {"filename_prefix": _DEFAULT_PREFIX, **node["inputs"]},
        }
        if node["class_type"] == "SaveImageWebsocket"
        else node
        for node_id, node in graph.items()
    }


def prefix_outputs(graph: Graph, classes: NodeClasses, *, folder: str, stem: str | None, keep: bool) -> Graph:
    """The graph with every output node saving under `folder`, in files whose names begin with `stem`.

    "sub/ComfyUI" becomes "<folder>/sub/<stem>_ComfyUI", or "<folder>/sub/<stem>" without `keep`; without a stem it becomes
    "<folder>/sub/ComfyUI". A fresh folder per run makes
    the save nodes run even when ComfyUI has the rest in its cache, keeps jobs apart, and is all that clean-up must remove.
    """

    def prefix(value: str) -> str:
        value = re.sub(r"[\x00-\x1f]", "_", value)
        parts = [_cut(part, _LONGEST_NAME) for part in re.split(r"[/\\]+", value) if part not in ("", ".", "..")]
        name = parts.pop() if parts else ""
        del parts[_MOST_FOLDERS:]
        if stem is None:
            return "/".join([folder, *parts, name or _DEFAULT_PREFIX])
        return "/".join([folder, *parts, _cut(f"{stem}_{name}", _LONGEST_NAME) if keep and name else stem])

    places = {
        (node_id, "filename_prefix"): prefix(_text(node["inputs"]["filename_prefix"]))
        for node_id, node in graph.items()
        if (known := classes.get(node["class_type"])) and known.output and "filename_prefix" in node["inputs"]
    }
    return set_inputs(graph, places)


def _text(prefix: Any) -> str:
    """A prefix as ComfyUI takes it: numbers become texts. A link's value is known to ComfyUI alone, and is replaced."""
    return str(prefix) if isinstance(prefix, (str, int, float)) else _DEFAULT_PREFIX


def media_inputs(graph: Graph, classes: NodeClasses) -> list[MediaInput]:
    """The inputs that may hold a URL, a data URI, base64 or a file name. Links and prompt texts are none."""
    return [
        MediaInput(node_id, name, value, medium)
        for node_id, node in graph.items()
        if (known := classes.get(node["class_type"]))
        for name, medium in known.uploads.items()
        if (value := _given(node["inputs"].get(name), medium)) is not None
    ]


def _given(value: Any, medium: str) -> str | list[str] | None:
    """What the caller put into an upload input: a string, for a folder a list of strings; None for a link and the like."""
    if medium != "images":
        return value if isinstance(value, str) else None
    good = isinstance(value, list) and bool(value) and all(isinstance(entry, str) for entry in value)
    return value if good else None


def set_media(graph: Graph, classes: NodeClasses, given: Mapping[str, str]) -> Graph:
    """The graph with every medium that is named in `given`, also as "name [input]", replaced by what it names."""
    places = {
        (place.node_id, place.name): given[name]
        for place in media_inputs(graph, classes)
        if isinstance(place.value, str) and (name := place.value.removesuffix(" [input]")) in given
    }
    return set_inputs(graph, places)


def model_inputs(graph: Graph, classes: NodeClasses) -> list[ModelInput]:
    """The inputs that hold the name of a model, or a URL in its place. Links are none."""
    return [
        ModelInput(node_id, name, value, folder)
        for node_id, node in graph.items()
        if (known := classes.get(node["class_type"]))
        for name, folder in known.models.items()
        if isinstance(value := node["inputs"].get(name), str)
    ]


def set_inputs(graph: Graph, values: Mapping[tuple[str, str], Any]) -> Graph:
    """The graph with the inputs (node id, input name) set to the given values."""
    changed = {node_id for node_id, _ in values}
    return {node_id: _with(node, node_id, values) if node_id in changed else node for node_id, node in graph.items()}


def _with(node: Node, node_id: str, values: Mapping[tuple[str, str], Any]) -> Node:
    inputs = {name: values.get((node_id, name), value) for name, value in node["inputs"].items()}
    return {**node, "inputs": inputs}


def file_stem(request_id: str) -> str:
    """A request's id as it may stand in a file name: letters, digits, "_", "-", ".", inner spaces, at most 100 bytes.

    "%" goes as well: ComfyUI would expand %year% and the like.
    """
    safe = re.sub(r"[^\w. -]", "_", request_id).lstrip(" .")
    return _cut(safe, _LONGEST_STEM).rstrip(" ") or "_"


def _cut(name: str, longest: int) -> str:
    """At most so many bytes of UTF-8."""
    return name.encode()[:longest].decode(errors="ignore")


def title(node: Node | None) -> str:
    """The name that the editor shows for a node, if its export has one."""
    meta: Any = node.get("_meta") if node else None
    return str(meta["title"]) if isinstance(meta, dict) and meta.get("title") else ""


def describe_node(node_id: str, node: Node | None) -> str:
    """A node as error sentences name it: node 30 (CheckpointLoaderSimple, "Load Checkpoint")."""
    if node is None:
        return f"node {node_id}"
    label = title(node)
    return f"node {node_id} ({node['class_type']}, {label!r})" if label else f"node {node_id} ({node['class_type']})"
