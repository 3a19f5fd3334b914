"""What is equal in two conversations although it is not the same: ids, times, counters, orders of sets."""

import json
import re
from typing import Any

# their order is that of a set, so it differs from one start of a real server to the next
SETS = frozenset({"executed", "current_outputs", "errors", "dependent_outputs"})
NUMBERED = re.compile(r"^(?P<prefix>.+_)(?P<number>\d{5})_\.(?P<suffix>\w+)$")
TEMPORARY = re.compile(r"ComfyUI_temp_[a-z]{5}_")
# how a node's input prints that is neither text nor number
OBJECT = re.compile(r"^(tensor\(|\w+\(|<|\(|\{)")


class History:
    """What one server has called things so far."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.ids: dict[str, str] = {}
        self.first_numbers: dict[str, int] = {}
        # "temporary_+0.png" -> what this server calls it
        self.files: dict[str, str] = {}

    def copy(self) -> "History":
        twin = History(self.base)
        twin.ids, twin.first_numbers, twin.files = dict(self.ids), dict(self.first_numbers), dict(self.files)
        return twin

    def file(self, name: str) -> str:
        """A numbered name, counted from the first of its kind; others stay as they are."""
        found = NUMBERED.match(name)
        if found is None:
            return name
        number = int(found["number"]) - self.first_numbers.get(found["prefix"], 0)
        return TEMPORARY.sub("temporary_", f"{found['prefix']}{number:+}.{found['suffix']}")

    def learn(self, value: Any) -> None:
        """Remember the ids and the lowest file numbers in an answer or a message."""
        if isinstance(value, dict):
            prompt_id = value.get("prompt_id")
            if isinstance(prompt_id, str):
                self.ids.setdefault(prompt_id, f"prompt {len(self.ids)}")
            if isinstance(value.get("filename"), str) and (found := NUMBERED.match(value["filename"])):
                self.first_numbers.setdefault(found["prefix"], int(found["number"]))
                self.files[self.file(value["filename"])] = value["filename"]
            for inner in value.values():
                self.learn(inner)
        elif isinstance(value, list):
            for inner in value:
                self.learn(inner)


def comparable(value: Any, history: History, key: str = "") -> Any:
    """The value with everything replaced that may differ between two servers."""
    if isinstance(value, dict):
        return _mapping(value, history)
    if key == "traceback":
        return "traceback" if value and all(isinstance(line, str) for line in value) else value
    if isinstance(value, list):
        items = [comparable(item, history) for item in value]
        if len(items) == 5 and isinstance(value[2], dict) and isinstance(value[4], list):  # a queue entry
            items[0], items[4] = type(value[0]).__name__, sorted(items[4])
        return sorted(items, key=json.dumps) if key in SETS else items
    if isinstance(value, str):
        return _text(value, history, key)
    if isinstance(value, bytes):
        return {"event": int.from_bytes(value[:4], "big"), "head": value[:16].hex()}
    return "int" if key in ("timestamp", "number") and type(value) is int else value


def folded(frames: list[Any], *, exactly: bool) -> list[Any]:
    """A run of equal steps counts once, unless their number matters."""
    if exactly:
        return frames
    kept: list[Any] = []
    since_milestone = 0
    for frame in frames:
        if isinstance(frame, dict) and frame.get("type") == "progress":
            frame = {**frame, "data": {**frame["data"], "value": "step"}}
        elif isinstance(frame, dict) and frame.get("type") == "progress_state":
            frame = _without_steps(frame)
        kind = frame.get("type") if isinstance(frame, dict) else None
        if kind in ("progress", "progress_state") and frame in kept[since_milestone:]:
            continue
        kept.append(frame)
        if kind not in ("progress", "progress_state", "status"):
            since_milestone = len(kept)
    return kept


def same(wanted: Any, got: Any, where: str) -> str | None:
    """The first difference in words, or None."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        if where.endswith("/system_stats"):
            return None if _shape(wanted) == _shape(got) else f"{where}: {_shape(got)}, recorded {_shape(wanted)}"
        if wanted.keys() != got.keys():
            return f"{where}: keys {list(got)}, recorded {list(wanted)}"
        pairs: Any = ((key, wanted[key], got[key]) for key in wanted)
    elif isinstance(wanted, list) and isinstance(got, list):
        if len(wanted) != len(got):
            return f"{where}: {len(got)} items, recorded {len(wanted)}: {str(got)[:200]} / {str(wanted)[:200]}"
        pairs = ((str(number), *pair) for number, pair in enumerate(zip(wanted, got, strict=True)))
    else:
        equal = wanted == got and type(wanted) is type(got)
        return None if equal else f"{where}: {str(got)[:300]!r}, recorded {str(wanted)[:300]!r}"
    differences = (same(theirs, ours, f"{where}.{key}") for key, theirs, ours in pairs)
    return next((difference for difference in differences if difference), None)


def _mapping(value: dict[str, Any], history: History) -> dict[str, Any]:
    if "event" in value and "head" in value:
        return {"event": value["event"], "head": value["head"]}
    found = {history.ids.get(key, key): comparable(inner, history, key) for key, inner in value.items()}
    if "image_upload" in str(value.get("image", "")):
        found["image"] = "input files"
    return found


def _text(value: str, history: History, key: str) -> str:
    if value in history.ids:
        return history.ids[value]
    if key == "sid" and re.fullmatch("[0-9a-f]{32}", value):
        return "invented"
    if key == "python_module":
        return "module"
    if OBJECT.match(value):
        return "object"
    return history.file(value).replace(history.base, "<base>").partition("full_output_folder")[0]


def _without_steps(frame: dict[str, Any]) -> dict[str, Any]:
    nodes = {
        node_id: node if node["state"] == "finished" or node["max"] == 1.0 else {**node, "value": "step"}
        for node_id, node in frame["data"]["nodes"].items()
    }
    return {**frame, "data": {**frame["data"], "nodes": nodes}}


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(inner) for key, inner in value.items() if key not in ("stand_in", "argv")}
    return [_shape(value[0])] if isinstance(value, list) else type(value).__name__
