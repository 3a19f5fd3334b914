"""Validates a graph as ComfyUI does: same error types and texts, and values are coerced in place."""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from emulator.comfyui import Folders
from emulator.comfyui.execution.errors import Error, exception_type, validation_error
from emulator.comfyui.nodes import Node, NodeClasses, input_declarations

# whether a node can run, and the errors of its own
Checked = tuple[bool, list[Error]]

# an error does not repeat longer lists of choices
MAX_LISTED = 20
COERCIONS: dict[str, Callable[[Any], Any]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


@dataclass
class Validation:
    """The outputs that can run, and the errors of the others."""

    outputs: list[str] = field(default_factory=list)
    error: Error | None = None
    node_errors: dict[str, Any] = field(default_factory=dict)


def validate(graph: Any, targets: list[str] | None, nodes: NodeClasses, folders: Folders) -> Validation:
    """Validate a graph. What is not a graph raises, as in ComfyUI, and is answered with 500."""
    outputs = []
    for node_id in graph:
        if "class_type" not in graph[node_id]:
            return _invalid_prompt("a node is missing the class_type property.", node_id)
        cls = nodes.get(graph[node_id]["class_type"])
        if cls is None:
            return _invalid_prompt(f"node {graph[node_id]['class_type']} does not exist.", node_id)
        if cls.output_node and (targets is None or node_id in targets):
            outputs.append(node_id)
    if not outputs:
        return Validation(error=validation_error("prompt_no_outputs", "Prompt has no outputs", ""))
    return _Validator(graph, nodes, folders).outputs(outputs)


class _Validator:
    """Follows the links from the outputs, and checks each node once."""

    def __init__(self, graph: dict[str, Any], nodes: NodeClasses, folders: Folders) -> None:
        self.graph = graph
        self.nodes = nodes
        self.folders = folders
        self.checked: dict[str, Checked] = {}

    def outputs(self, outputs: list[str]) -> Validation:
        result = Validation()
        errors: list[Error] = []
        for output in outputs:
            valid, found = self._output(output)
            if valid:
                result.outputs.append(output)
            else:
                errors += found
                self._report(output, result.node_errors)
        if not result.outputs:
            details = "\n".join(dict.fromkeys(f"{found['message']}: {found['details']}" for found in errors))
            result.error = validation_error(
                "prompt_outputs_failed_validation", "Prompt outputs failed validation", details
            )
        return result

    def _output(self, node_id: str) -> Checked:
        try:
            return self._node(node_id)
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as exc:
            found = validation_error(
                "exception_during_validation",
                "Exception when validating node",
                str(exc),
                exception_type=exception_type(exc),
                traceback=traceback.format_tb(exc.__traceback__),
            )
            self.checked[node_id] = False, [found]
            return self.checked[node_id]

    def _report(self, output: str, node_errors: dict[str, Any]) -> None:
        """Add the errors of this output's nodes. A node that only depends on an invalid one has none."""
        for node_id, (valid, found) in self.checked.items():
            if valid or not found:
                continue
            class_type = self.graph[node_id]["class_type"]
            entry = {"errors": found, "dependent_outputs": [], "class_type": class_type}
            node_errors.setdefault(node_id, entry)["dependent_outputs"].append(output)

    def _node(self, node_id: str) -> Checked:
        if node_id in self.checked:
            return self.checked[node_id]
        inputs = self.graph[node_id]["inputs"]
        cls = self.nodes[self.graph[node_id]["class_type"]]
        valid, errors = True, []
        for name, (group, kind, options) in input_declarations(cls, self.folders).items():
            if name not in inputs:
                if group == "required":
                    errors.append(
                        validation_error("required_input_missing", "Required input is missing", name, input_name=name)
                    )
            elif isinstance(inputs[name], list):
                link_valid, found = self._link(name, kind, options, inputs[name])
                valid = valid and link_valid
                errors += found
            else:
                errors += _coerce(name, kind, options, inputs, name in cls.checked_inputs)
        errors += self._custom_check(cls, inputs)
        self.checked[node_id] = valid and not errors, errors
        return self.checked[node_id]

    def _link(self, name: str, kind: Any, options: dict[str, Any], link: list[Any]) -> Checked:
        """Check a link: its shape, its type and the nodes behind it."""
        config = [kind, options]
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            found = validation_error(
                "bad_linked_input", message, name, input_name=name, input_config=config, received_value=link
            )
            return False, [found]
        source = link[0]
        received = self.nodes[self.graph[source]["class_type"]].outputs[link[1]]
        if not _types_match(received, kind):
            details = f"{name}, received_type({received}) mismatch input_type({kind})"
            found = validation_error(
                "return_type_mismatch",
                "Return type mismatch between linked nodes",
                details,
                input_name=name,
                input_config=config,
                received_type=received,
                linked_node=link,
            )
            return False, [found]
        try:
            return self._node(source)[0], []
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as exc:
            found = validation_error(
                "exception_during_inner_validation",
                "Exception when validating inner node",
                str(exc),
                input_name=name,
                input_config=config,
                exception_message=str(exc),
                exception_type=exception_type(exc),
                traceback=traceback.format_tb(exc.__traceback__),
                linked_node=link,
            )
            self.checked[source] = False, [found]
            return False, []

    def _custom_check(self, cls: type[Node], inputs: Mapping[str, Any]) -> list[Error]:
        values = {name: inputs[name] for name in cls.checked_inputs if not isinstance(inputs.get(name, []), list)}
        wrong = cls.check(self.folders, values) if values else None
        if wrong is None:
            return []
        message = "Custom validation failed for node"
        return [
            validation_error("custom_validation_failed", message, f"{name} - {wrong}", input_name=name)
            for name in sorted(values)
        ]


def _invalid_prompt(reason: str, node_id: str) -> Validation:
    return Validation(
        error=validation_error("invalid_prompt", f"Cannot execute because {reason}", f"Node ID '#{node_id}'")
    )


def _types_match(received: Any, kind: Any) -> bool:
    return kind in (received, "*") or bool(received == "*")


def _coerce(
    name: str, kind: Any, options: dict[str, Any], inputs: dict[str, Any], has_custom_check: bool
) -> list[Error]:
    """Coerce one value in place, and return its errors."""
    value = inputs[name]
    config = [kind, options]
    try:
        if isinstance(value, dict) and "__value__" in value:
            # how a list is written, as a plain list is a link
            value = inputs[name] = value["__value__"]
        if isinstance(kind, str) and kind in COERCIONS:
            value = inputs[name] = COERCIONS[kind](value)
    except (TypeError, ValueError, OverflowError) as exc:
        found = validation_error(
            "invalid_input_type",
            f"Failed to convert an input value to a {kind} value",
            f"{name}, {value}, {exc}",
            input_name=name,
            input_config=config,
            received_value=value,
            exception_message=str(exc),
        )
        return [found]
    return [] if has_custom_check else _check_limits(name, value, kind, options)


def _check_limits(name: str, value: Any, kind: Any, options: dict[str, Any]) -> list[Error]:
    facts = {"input_name": name, "input_config": [kind, options], "received_value": value}
    if "min" in options and value < options["min"]:
        message = f"Value {value} smaller than min of {options['min']}"
        return [validation_error("value_smaller_than_min", message, name, **facts)]
    if "max" in options and value > options["max"]:
        message = f"Value {value} bigger than max of {options['max']}"
        return [validation_error("value_bigger_than_max", message, name, **facts)]
    if isinstance(kind, list) and value not in kind:
        long = len(kind) > MAX_LISTED
        listed = f"(list of length {len(kind)})" if long else str(kind)
        facts["input_config"] = None if long else facts["input_config"]
        return [
            validation_error("value_not_in_list", "Value not in list", f"{name}: '{value}' not in {listed}", **facts)
        ]
    return []
