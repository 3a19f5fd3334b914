"""ComfyUI's reports of what is wrong with a prompt, as errors of our tree with a sentence for the caller."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from handler.choices import Ask
from handler.errors import GpuLost, OutOfMemory, PromptFailed, PromptInterrupted, PromptRejected
from handler.graphs import Graph, describe_node

# torch's class moved from torch.cuda to torch in 2.5; ComfyUI reports the full name.
_OUT_OF_MEMORY = {"torch.OutOfMemoryError", "torch.cuda.OutOfMemoryError"}
_OUT_OF_MEMORY_TEXT = "CUDA error: out of memory"
# Its class since 2.8; before, a plain RuntimeError with such a text.
_GPU_LOST = {"torch.AcceleratorError"}
_GPU_LOST_TEXT = re.compile(r"CUDA error: |CUDA driver error: |No CUDA GPUs are available")
_NEAREST = 3
# What is longer is like no name, and it would take minutes to find that out.
_LONGEST_NAME = 1000


def list_options(spec: list[Any]) -> list[str]:
    """The values of a declared list input, in both of ComfyUI's notations: [[...], {}] and ["COMBO", {"options": [...]}]."""
    values = spec[0] if isinstance(spec[0], list) else (spec[1] if len(spec) > 1 else {}).get("options") or []
    return [str(value) for value in values]


WhereSearched = Callable[[str, str, str], str]
"""Of a node class, an input and its value: where a model of that name was looked for, as the rest of a sentence, or ""."""


class PromptRefused(Exception):
    """ComfyUI's answer to a prompt that it does not run: a 400 of POST /prompt, or a 200 with node_errors."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        super().__init__()
        self.answer = answer


@contextmanager
def explain_refusals(graph: Graph, ask: Ask, where_searched: WhereSearched) -> Iterator[None]:
    """Raise PromptRejected, with a sentence for each fault, in place of the PromptRefused of the block."""
    try:
        yield
    except PromptRefused as exc:
        raise _rejected(exc.answer, graph, ask, where_searched) from exc


def _rejected(answer: Mapping[str, Any], graph: Graph, ask: Ask, where_searched: WhereSearched) -> PromptRejected:
    node_errors = _public(answer.get("node_errors") or {})
    faults = [(node_id, error) for node_id, entry in node_errors.items() for error in entry["errors"]]
    if not faults:
        return _without_details(answer.get("error") or {})
    sentences = [_sentence(node_id, error, graph, ask, where_searched) for node_id, error in faults]
    node_id, error = faults[0]
    name = error["extra_info"].get("input_name")
    location = f"prompt.{node_id}.inputs.{name}" if name in graph[node_id]["inputs"] else f"prompt.{node_id}"
    text = "; ".join(sentences)
    return PromptRejected(text if text.endswith("?") else f"{text}.", location=location, node_errors=node_errors)


def raise_failure(entry: Mapping[str, Any], graph: Graph) -> None:
    """Raise the failure of a history entry, if it is one."""
    for kind, facts in reversed(entry["status"]["messages"]):
        if kind == "execution_interrupted":
            raise PromptInterrupted("The prompt was interrupted.")
        if kind == "execution_error":
            raise _failed(facts, graph)
    if entry["status"]["status_str"] != "success":
        raise PromptInterrupted("The prompt ended without success, and ComfyUI does not say why.")


def _failed(facts: Mapping[str, Any], graph: Graph) -> PromptFailed:
    node_id, exception = str(facts["node_id"]), str(facts["exception_type"])
    text = str(facts["exception_message"]).strip()
    kind = _kind(exception, text)
    sentence = f"{describe_node(node_id, graph.get(node_id))} failed: {exception}: {text}"
    return kind(
        sentence[0].upper() + sentence[1:],
        node_id=node_id,
        class_type=str(facts["node_type"]),
        exception_type=exception,
    )


def _kind(exception: str, text: str) -> type[PromptFailed]:
    if exception in _OUT_OF_MEMORY or _OUT_OF_MEMORY_TEXT in text:
        return OutOfMemory
    return GpuLost if exception in _GPU_LOST or _GPU_LOST_TEXT.search(text) else PromptFailed


def _public(node_errors: Mapping[str, Any]) -> dict[str, Any]:
    """ComfyUI's table without its tracebacks, which name files of the server."""
    return {
        str(node_id): {
            **entry,
            "errors": [
                {**error, "extra_info": {k: v for k, v in error.get("extra_info", {}).items() if k != "traceback"}}
                for error in entry["errors"]
            ],
        }
        for node_id, entry in node_errors.items()
    }


def _without_details(error: Mapping[str, Any]) -> PromptRejected:
    """The cases in which ComfyUI names no node in its table: an unknown class, no outputs."""
    if error.get("type") == "invalid_prompt":
        node_id = str(error.get("details", "")).partition("#")[2].rstrip("'")
        return PromptRejected(f"{error['message'].rstrip('.')} (node {node_id}).", location=f"prompt.{node_id}")
    return PromptRejected(f"ComfyUI refused the prompt: {error.get('message') or 'it does not say why'}.")


def _sentence(node_id: str, error: Mapping[str, Any], graph: Graph, ask: Ask, where_searched: WhereSearched) -> str:
    node, extra = graph.get(node_id), error["extra_info"]
    where, name = describe_node(node_id, node), extra.get("input_name")
    where = where[0].upper() + where[1:]
    match error["type"]:
        case "value_not_in_list":
            known = (
                list_options(extra["input_config"])
                if extra.get("input_config")
                else ask(node["class_type"], name)
                if node
                else []
            )
            value = extra.get("received_value")
            place = where_searched(node["class_type"], str(name), value) if node and isinstance(value, str) else ""
            return f"{where}: {name} {_short(value)} is not in the list{place}{_hint(extra, known)}"
        case "required_input_missing":
            return f"{where}: {name} is missing"
        case "exception_during_inner_validation":
            return f"{where}: {error['details']}"
        case _:
            value = f" (given: {_short(extra['received_value'])})" if "received_value" in extra else ""
            detail = error["details"] if error["details"] != name else ""
            return f"{where}: {name or 'validation'}: {error['message']}{detail and f': {detail}'}{value}"


def _hint(extra: Mapping[str, Any], known: list[str]) -> str:
    near = difflib.get_close_matches(str(extra.get("received_value"))[:_LONGEST_NAME], known, n=_NEAREST, cutoff=0.4)
    if near:
        return f"; did you mean {', '.join(map(repr, near))}?"
    more = ", ..." if len(known) > _NEAREST else ""
    return f"; it has {', '.join(map(repr, known[:_NEAREST]))}{more}" if known else "; there is none to choose from"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
