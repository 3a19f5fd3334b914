"""What a node is: its declaration, how /object_info shows it, and what it may use while it runs."""

# ruff: noqa: ARG003 - a node declares its inputs on the class, and takes those that it ignores

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, ClassVar, Protocol

from emulator.comfyui.folders import Folders

Choices = Callable[[Folders], list[str]]
Declaration = tuple[Any, ...]
Inputs = Mapping[str, Declaration]
Library = Mapping[str, "type[Node]"]

# nodes written against ComfyUI's newer declaration API show these keys as well
NEW_STYLE = {"deprecated": False, "experimental": False, "api_node": False}


class Context(Protocol):
    """What the running server lends to a node."""

    folders: Folders
    step_seconds: float

    def progress(self, value: int, total: int, image: tuple[str, bytes] | None = None) -> None:
        """Tell the clients how far the node is, and show them a picture."""

    def pause(self, seconds: float) -> None:
        """Wait; raises Interrupted as soon as someone interrupts."""


class Node:
    """A class of nodes. A subclass declares its inputs and has one method, named by `function`, that runs it."""

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
    # values of these inputs are checked by `check` alone, not against their declaration
    checked_inputs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, context: Context) -> None:
        self.context = context

    @classmethod
    def check(cls, folders: Folders, values: Mapping[str, Any]) -> str | None:
        """What is wrong with the values of `checked_inputs`, if anything."""
        return None

    @classmethod
    def is_changed(cls, folders: Folders, values: Mapping[str, Any]) -> str | None:
        """A text that differs when the node must run again although its inputs are the same."""
        return None


def library(*modules: ModuleType) -> Library:
    """All node classes that the modules define, by class name as graphs write it."""
    classes = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    nodes = [cls for cls in classes if issubclass(cls, Node) and cls.category]
    return {cls.name or cls.__name__: cls for cls in nodes}


def declared(cls: type[Node], folders: Folders) -> dict[str, tuple[str, Any, dict[str, Any]]]:
    """Each input's (group, type, options), with the lists of files read from disk."""
    groups = (("required", cls.required), ("optional", cls.optional))
    return {name: (group, *_resolved(entry, folders)) for group, inputs in groups for name, entry in inputs.items()}


def object_info(class_type: str, cls: type[Node], folders: Folders) -> dict[str, Any]:
    """The entry of /object_info."""
    groups: dict[str, dict[str, Any]] = {
        "required": {name: _shown(entry, folders) for name, entry in cls.required.items()},
        "optional": {name: _shown(entry, folders) for name, entry in cls.optional.items()},
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


def _resolved(entry: Declaration, folders: Folders) -> tuple[Any, dict[str, Any]]:
    kind, options = entry[0], entry[1] if len(entry) > 1 else {}
    return (kind(folders) if callable(kind) else kind), options


def _shown(entry: Declaration, folders: Folders) -> list[Any]:
    kind, options = _resolved(entry, folders)
    return [kind, options] if len(entry) > 1 else [kind]
