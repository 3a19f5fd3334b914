"""Checks a graph as ComfyUI does: same error types, same texts, values coerced in place."""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from emulator.comfyui.folders import Folders
from emulator.comfyui.nodes.node import Library, Node, declared

Problem = dict[str, Any]
Verdict = tuple[bool, list[Problem]]

# longer lists of choices are not sent back
MAX_LISTED = 20
COERCIONS: dict[str, Callable[[Any], Any]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


@dataclass
class Validation:
    """The outputs that can run, and what is wrong with the rest."""

    outputs: list[str] = field(default_factory=list)
    error: Problem | None = None
    node_errors: dict[str, Any] = field(default_factory=dict)


def validate(graph: Any, targets: list[str] | None, nodes: Library, folders: Folders) -> Validation:
    """Check a graph; raises (which becomes a 500) where ComfyUI does: on what is no graph at all."""
    outputs = []
    for node_id in graph:
        if "class_type" not in graph[node_id]:
            return _invalid("a node is missing the class_type property.", node_id)
        cls = nodes.get(graph[node_id]["class_type"])
        if cls is None:
            return _invalid(f"node {graph[node_id]['class_type']} does not exist.", node_id)
        if cls.output_node and (targets is None or node_id in targets):
            outputs.append(node_id)
    if not outputs:
        return Validation(error=problem("prompt_no_outputs", "Prompt has no outputs", ""))
    return _Checker(graph, nodes, folders).outputs(outputs)


def problem(kind: str, message: str, details: str, **extra_info: Any) -> Problem:
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def type_name(exc: BaseException) -> str:
    """The exception's class as ComfyUI writes it: with its module unless built in."""
    cls = type(exc)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


class _Checker:
    """Walks from the outputs to their inputs, keeping a verdict for each node on the way."""

    def __init__(self, graph: dict[str, Any], nodes: Library, folders: Folders) -> None:
        self.graph = graph
        self.nodes = nodes
        self.folders = folders
        self.verdicts: dict[str, Verdict] = {}

    def outputs(self, outputs: list[str]) -> Validation:
        result = Validation()
        problems: list[Problem] = []
        for output in outputs:
            valid, found = self._output(output)
            if valid:
                result.outputs.append(output)
            else:
                problems += found
                self._blame(output, result.node_errors)
        if not result.outputs:
            details = "\n".join(dict.fromkeys(f"{found['message']}: {found['details']}" for found in problems))
            result.error = problem("prompt_outputs_failed_validation", "Prompt outputs failed validation", details)
        return result

    def _output(self, node_id: str) -> Verdict:
        try:
            return self._node(node_id)
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as exc:
            found = problem(
                "exception_during_validation",
                "Exception when validating node",
                str(exc),
                exception_type=type_name(exc),
                traceback=traceback.format_tb(exc.__traceback__),
            )
            self.verdicts[node_id] = False, [found]
            return self.verdicts[node_id]

    def _blame(self, output: str, node_errors: dict[str, Any]) -> None:
        """Report each node that has problems of its own; a node that only depends on one has none."""
        for node_id, (valid, found) in self.verdicts.items():
            if valid or not found:
                continue
            class_type = self.graph[node_id]["class_type"]
            entry = {"errors": found, "dependent_outputs": [], "class_type": class_type}
            node_errors.setdefault(node_id, entry)["dependent_outputs"].append(output)

    def _node(self, node_id: str) -> Verdict:
        if node_id in self.verdicts:
            return self.verdicts[node_id]
        inputs = self.graph[node_id]["inputs"]
        cls = self.nodes[self.graph[node_id]["class_type"]]
        valid, problems = True, []
        for name, (group, kind, options) in declared(cls, self.folders).items():
            if name not in inputs:
                if group == "required":
                    problems.append(
                        problem("required_input_missing", "Required input is missing", name, input_name=name)
                    )
            elif isinstance(inputs[name], list):
                sound, found = self._link(name, kind, options, inputs[name])
                valid = valid and sound
                problems += found
            else:
                problems += _value(name, kind, options, inputs, name in cls.checked_inputs)
        problems += self._own_check(cls, inputs)
        self.verdicts[node_id] = valid and not problems, problems
        return self.verdicts[node_id]

    def _link(self, name: str, kind: Any, options: dict[str, Any], link: list[Any]) -> Verdict:
        """A link is sound when its own shape, its type and everything behind it are."""
        config = [kind, options]
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            found = problem(
                "bad_linked_input", message, name, input_name=name, input_config=config, received_value=link
            )
            return False, [found]
        source = link[0]
        received = self.nodes[self.graph[source]["class_type"]].outputs[link[1]]
        if not _fits(received, kind):
            details = f"{name}, received_type({received}) mismatch input_type({kind})"
            found = problem(
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
            found = problem(
                "exception_during_inner_validation",
                "Exception when validating inner node",
                str(exc),
                input_name=name,
                input_config=config,
                exception_message=str(exc),
                exception_type=type_name(exc),
                traceback=traceback.format_tb(exc.__traceback__),
                linked_node=link,
            )
            self.verdicts[source] = False, [found]
            return False, []

    def _own_check(self, cls: type[Node], inputs: Mapping[str, Any]) -> list[Problem]:
        values = {name: inputs[name] for name in cls.checked_inputs if not isinstance(inputs.get(name, []), list)}
        wrong = cls.check(self.folders, values) if values else None
        if wrong is None:
            return []
        message = "Custom validation failed for node"
        return [
            problem("custom_validation_failed", message, f"{name} - {wrong}", input_name=name)
            for name in sorted(values)
        ]


def _invalid(reason: str, node_id: str) -> Validation:
    return Validation(error=problem("invalid_prompt", f"Cannot execute because {reason}", f"Node ID '#{node_id}'"))


def _fits(received: Any, kind: Any) -> bool:
    return kind in (received, "*") or bool(received == "*")


def _value(name: str, kind: Any, options: dict[str, Any], inputs: dict[str, Any], own_check: bool) -> list[Problem]:
    """Coerce one value in place; the list holds the problem with it, if there is one."""
    value = inputs[name]
    config = [kind, options]
    try:
        if isinstance(value, dict) and "__value__" in value:
            # a list is written like this, because a plain list is a link
            value = inputs[name] = value["__value__"]
        if isinstance(kind, str) and kind in COERCIONS:
            value = inputs[name] = COERCIONS[kind](value)
    except (TypeError, ValueError, OverflowError) as exc:
        found = problem(
            "invalid_input_type",
            f"Failed to convert an input value to a {kind} value",
            f"{name}, {value}, {exc}",
            input_name=name,
            input_config=config,
            received_value=value,
            exception_message=str(exc),
        )
        return [found]
    return [] if own_check else _limits(name, value, kind, options)


def _limits(name: str, value: Any, kind: Any, options: dict[str, Any]) -> list[Problem]:
    facts = {"input_name": name, "input_config": [kind, options], "received_value": value}
    if "min" in options and value < options["min"]:
        message = f"Value {value} smaller than min of {options['min']}"
        return [problem("value_smaller_than_min", message, name, **facts)]
    if "max" in options and value > options["max"]:
        message = f"Value {value} bigger than max of {options['max']}"
        return [problem("value_bigger_than_max", message, name, **facts)]
    if isinstance(kind, list) and value not in kind:
        long = len(kind) > MAX_LISTED
        listed = f"(list of length {len(kind)})" if long else str(kind)
        facts["input_config"] = None if long else facts["input_config"]
        return [problem("value_not_in_list", "Value not in list", f"{name}: '{value}' not in {listed}", **facts)]
    return []
