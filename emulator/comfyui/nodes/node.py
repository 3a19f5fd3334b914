"""The base class of nodes, their declarations, and their entries of /object_info."""

# ruff: noqa: ARG003 - the methods of the base class ignore their arguments

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from emulator.comfyui import Folders

Choices = Callable[[Folders], list[str]]
Declaration = tuple[Any, ...]
Inputs = Mapping[str, Declaration]
NodeClasses = Mapping[str, "type[Node]"]

# /object_info has these keys for nodes that use ComfyUI's newer API
NEW_STYLE = {"deprecated": False, "experimental": False, "api_node": False}


class Context(Protocol):
    """What a node can use while it runs."""

    folders: Folders
    step_seconds: float

    def progress(self, value: int, total: int, image: tuple[str, bytes] | None = None) -> None:
        """Send the progress, and a preview if there is one, to the clients."""

    def pause(self, seconds: float) -> None:
        """Wait. Raises Interrupted as soon as the prompt is interrupted."""


class Node:
    """A subclass declares its inputs and outputs; `function` names the method that runs it."""

    name: ClassVar[str] = ""
    function: ClassVar[str] = "run"
    required: ClassVar[Inputs] = {}
    optional: ClassVar[Inputs] = {}
    hidden: ClassVar[Mapping[str, str]] = {}
    outputs: ClassVar[tuple[str, ...]] = ()
    output_names: ClassVar[tuple[str, ...]] = ()
    output_tooltips: ClassVar[tuple[str | None, ...]] = ()
    display_name: ClassVar[str | None] = ""
    description: ClassVar[str] = ""
    python_module: ClassVar[str] = "nodes"
    category: ClassVar[str] = ""
    output_node: ClassVar[bool] = False
    extra_info: ClassVar[Mapping[str, Any]] = {}
    # inputs that `check` validates, in place of their declaration
    checked_inputs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, context: Context) -> None:
        self.context = context

    @classmethod
    def check(cls, folders: Folders, values: Mapping[str, Any]) -> str | None:
        """The error in the values of `checked_inputs`, or None."""
        return None

    @classmethod
    def is_changed(cls, folders: Folders, values: Mapping[str, Any]) -> str | None:
        """A text that becomes another one when the node must run again although its inputs are the same."""
        return None


def input_declarations(cls: type[Node], folders: Folders) -> dict[str, tuple[str, Any, dict[str, Any]]]:
    """Input name to (group, type, options). Lists of files are read from disk."""
    groups = (("required", cls.required), ("optional", cls.optional))
    return {name: (group, *_resolve(entry, folders)) for group, inputs in groups for name, entry in inputs.items()}


def object_info(class_type: str, cls: type[Node], folders: Folders) -> dict[str, Any]:
    """The entry of /object_info."""
    groups: dict[str, dict[str, Any]] = {
        "required": {name: _describe(entry, folders) for name, entry in cls.required.items()},
        "optional": {name: _describe(entry, folders) for name, entry in cls.optional.items()},
        "hidden": dict(cls.hidden),
    }
    present = {group: inputs for group, inputs in groups.items() if inputs or group == "required"}
    tooltips = {"output_tooltips": list(cls.output_tooltips)} if cls.output_tooltips else {}
    return {
        "input": present,
        "input_order": {group: list(inputs) for group, inputs in present.items()},
        "output": list(cls.outputs),
        "output_is_list": [False] * len(cls.outputs),
        "output_name": list(cls.output_names or cls.outputs),
        "name": class_type,
        "display_name": class_type if cls.display_name == "" else cls.display_name,
        "description": cls.description,
        "python_module": cls.python_module,
        "category": cls.category,
        "output_node": cls.output_node,
        **tooltips,
        **cls.extra_info,
    }


def _resolve(entry: Declaration, folders: Folders) -> tuple[Any, dict[str, Any]]:
    kind, options = entry[0], entry[1] if len(entry) > 1 else {}
    return (kind(folders) if callable(kind) else kind), options


def _describe(entry: Declaration, folders: Folders) -> list[Any]:
    kind, options = _resolve(entry, folders)
    return [kind, options] if len(entry) > 1 else [kind]
