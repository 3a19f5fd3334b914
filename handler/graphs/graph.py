"""Functions on graphs. They return new graphs and never change the given one."""

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


# In bytes. File names may have 255, and ComfyUI adds a counter and a suffix.
_MAX_NAME = 200
_MAX_STEM = 100
# In a prefix, so that the path stays below Linux' limit of 4,096 bytes.
_MAX_FOLDERS = 16
# The default of SaveImage.
_DEFAULT_PREFIX = "ComfyUI"


@dataclass(frozen=True)
class MediaInput:
    """A node's input with an image, video or audio file: a string, or a list of strings for a folder."""

    node_id: str
    name: str
    value: str | list[str]
    medium: str

    @property
    def location(self) -> str:
        return f"prompt.{self.node_id}.inputs.{self.name}"


@dataclass(frozen=True)
class ModelInput:
    """A node's input that names a model: a file in a model folder, or a URL."""

    node_id: str
    name: str
    value: str
    folder: str

    @property
    def location(self) -> str:
        return f"prompt.{self.node_id}.inputs.{self.name}"


def has_output(graph: Graph, classes: NodeClasses) -> bool:
    """Whether the graph has an output node other than PreviewImage.

    An unknown class counts as one, so that ComfyUI's validation reports it.
    """
    used = {node["class_type"] for node in graph.values()}
    return any((known := classes.get(name)) is None or (known.output and name != "PreviewImage") for name in used)


def replace_websocket_outputs(graph: Graph) -> Graph:
    """The graph with each SaveImageWebsocket replaced by a SaveImage.

    It sends images over the websocket only, so that they are not in the history and are lost with the connection.
    """
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
    """The graph with each output node saving into `folder`, in files whose names begin with `stem`.

    The prefix "sub/ComfyUI" becomes "<folder>/sub/<stem>_ComfyUI", without `keep` "<folder>/sub/<stem>", and without a stem
    "<folder>/sub/ComfyUI". A new folder for each run makes the save nodes run although the other nodes are cached,
    separates jobs, and is the only thing to remove afterwards.
    """

    def prefix(value: str) -> str:
        value = re.sub(r"[\x00-\x1f]", "_", value)
        parts = [_truncate(part, _MAX_NAME) for part in re.split(r"[/\\]+", value) if part not in ("", ".", "..")]
        name = parts.pop() if parts else ""
        del parts[_MAX_FOLDERS:]
        if stem is None:
            return "/".join([folder, *parts, name or _DEFAULT_PREFIX])
        return "/".join([folder, *parts, _truncate(f"{stem}_{name}", _MAX_NAME) if keep and name else stem])

    places = {
        (node_id, "filename_prefix"): prefix(_prefix_text(node["inputs"]["filename_prefix"]))
        for node_id, node in graph.items()
        if (known := classes.get(node["class_type"])) and known.output and "filename_prefix" in node["inputs"]
    }
    return set_inputs(graph, places)


def _prefix_text(prefix: Any) -> str:
    """The prefix as a text. A link becomes the default, because only ComfyUI knows its value."""
    return str(prefix) if isinstance(prefix, (str, int, float)) else _DEFAULT_PREFIX


def media_inputs(graph: Graph, classes: NodeClasses) -> list[MediaInput]:
    """The inputs that take an uploaded file, and so may be a URL, a data URI, base64 or a file name; links are left out."""
    return [
        MediaInput(node_id, name, value, medium)
        for node_id, node in graph.items()
        if (known := classes.get(node["class_type"]))
        for name, medium in known.uploads.items()
        if (value := _media_value(node["inputs"].get(name), medium)) is not None
    ]


def _media_value(value: Any, medium: str) -> str | list[str] | None:
    """The value of an upload input: a string, or a list of strings for a folder; None for others, such as links."""
    if medium != "images":
        return value if isinstance(value, str) else None
    good = isinstance(value, list) and bool(value) and all(isinstance(entry, str) for entry in value)
    return value if good else None


def set_media(graph: Graph, classes: NodeClasses, given: Mapping[str, str]) -> Graph:
    """The graph with media replaced: `given` maps a name, also written as "name [input]", to the new value."""
    if not given:
        return graph
    places = {
        (medium.node_id, medium.name): given[name]
        for medium in media_inputs(graph, classes)
        if isinstance(medium.value, str) and (name := medium.value.removesuffix(" [input]")) in given
    }
    return set_inputs(graph, places)


def model_inputs(graph: Graph, classes: NodeClasses) -> list[ModelInput]:
    """The inputs that name a model, or have a URL in its place; links are left out."""
    return [
        ModelInput(node_id, name, value, folder)
        for node_id, node in graph.items()
        if (known := classes.get(node["class_type"]))
        for name, folder in known.models.items()
        if isinstance(value := node["inputs"].get(name), str)
    ]


def set_inputs(graph: Graph, values: Mapping[tuple[str, str], Any]) -> Graph:
    """The graph with new values for the inputs (node id, input name)."""
    changed = {node_id for node_id, _ in values}
    return {
        node_id: _replace_inputs(node, node_id, values) if node_id in changed else node
        for node_id, node in graph.items()
    }


def _replace_inputs(node: Node, node_id: str, values: Mapping[tuple[str, str], Any]) -> Node:
    inputs = {name: values.get((node_id, name), value) for name, value in node["inputs"].items()}
    return {**node, "inputs": inputs}


def file_stem(request_id: str) -> str:
    """A request's id as a file name: letters, digits, "_", "-", "." and inner spaces, at most 100 bytes of UTF-8.

    "%" is replaced as well, because ComfyUI expands %year% and similar.
    """
    safe = re.sub(r"[^\w. -]", "_", request_id).lstrip(" .")
    return _truncate(safe, _MAX_STEM).rstrip(" ") or "_"


def _truncate(name: str, max_bytes: int) -> str:
    """The first `max_bytes` bytes of UTF-8, without a partial character."""
    return name.encode()[:max_bytes].decode(errors="ignore")


def title(node: Node | None) -> str:
    """The title of a node in the ComfyUI editor, or an empty string."""
    meta: Any = node.get("_meta") if node else None
    return str(meta["title"]) if isinstance(meta, dict) and meta.get("title") else ""


def describe_node(node_id: str, node: Node | None) -> str:
    """A node in error messages: node 30 (CheckpointLoaderSimple, 'Load Checkpoint')."""
    if node is None:
        return f"node {node_id}"
    label = title(node)
    return f"node {node_id} ({node['class_type']}, {label!r})" if label else f"node {node_id} ({node['class_type']})"
