"""Graphs that ComfyUI cannot run: an error that says why, and a ComfyUI that goes on working.

The worker of ComfyUI 0.3.64 does not outlive a link to nowhere in an input that its node does not declare, nor a thousand nodes
in a row; outputs behind a cycle it leaves out without a word.
"""

import json
from typing import Any

import pytest

from tests.support import graphs
from tests.support.api import Api
from tests.support.comfyui import Comfyui
from tests.support.graphs import Graph
from tests.support.standin import Standin
from tests.support.waiting import wait_until


def invert(source: str, **more: Any) -> dict[str, Any]:
    return {"class_type": "ImageInvert", "inputs": {"image": [source, 0], **more}}


def save(source: str) -> dict[str, Any]:
    return {"class_type": "SaveImage", "inputs": {"filename_prefix": "more", "images": [source, 0]}}


def row(length: int, *, used: bool) -> Graph:
    """A plain picture, and so many nodes one behind the other; with `used` an output is behind the last."""
    nodes = {f"r{n}": invert(f"r{n - 1}" if n else "1") for n in range(length)}
    return {**graphs.empty(), **nodes, **({"last": save(f"r{length - 1}")} if used else {})}


PLAIN = graphs.empty()
BAD: dict[str, tuple[Graph, str, str]] = {
    "a cycle": (
        {**PLAIN, "3": invert("4"), "4": invert("3"), "5": save("3")},
        "prompt.3",
        "The prompt has a cycle: 3 → 4 → 3.",
    ),
    "a node that is its own source": ({**PLAIN, "3": invert("3"), "5": save("3")}, "prompt.3", "cycle: 3 → 3."),
    "a cycle through an input that nobody declares": (
        {**graphs.changed(PLAIN, "1", zz=["3", 0]), "3": invert("1")},
        "prompt.1",
        "The prompt has a cycle",
    ),
    "a link to nowhere": (
        {**PLAIN, "5": save("99")},
        "prompt.5.inputs.images",
        "Node 5 (SaveImage): images is linked to node '99', which is not in the prompt.",
    ),
    "a link to nowhere in an input that nobody declares": (
        graphs.changed(PLAIN, "1", zz=["99", 0]),
        "prompt.1.inputs.zz",
        "Node 1 (EmptyImage): zz is linked to node '99', which is not in the prompt.",
    ),
    "a cycle of 10,000 nodes": (
        {**PLAIN, **{f"{n + 10}": invert(f"{(n + 1) % 10_000 + 10}") for n in range(10_000)}, "5": save("10")},
        "prompt.",
        "...",
    ),
    "10,000 nodes in a row": (row(10_000, used=True), "prompt", "More than 500 nodes are linked in a row."),
    "10,000 nodes in a row that nobody needs": (row(10_000, used=False), "prompt", "More than 500 nodes"),
    "a link to a slot that is not there": (
        {**PLAIN, "5": save("1") | {"inputs": {"images": ["1", 9]}}},
        "prompt.5",
        "",
    ),
    "a link to half a slot": ({**PLAIN, "5": save("1") | {"inputs": {"images": ["1", 0.5]}}}, "prompt.5", ""),
}


@pytest.mark.parametrize("what", BAD)
def test_a_graph_that_cannot_run_is_rejected(api: Api, clean: Comfyui, what: str) -> None:
    print(f"injected: {what}")
    graph, location, says = BAD[what]
    answer = api("POST", "/prompt", json={"prompt": graph})
    assert (answer.status_code, answer.json()["code"]) == (400, "PROMPT_REJECTED")
    assert answer.json()["location"].startswith(location)
    assert says in answer.json()["error"]
    assert len(answer.json()["error"]) < 500
    assert api("POST", "/prompt", json={"prompt": PLAIN}).status_code == 200


@pytest.mark.parametrize(
    "graph",
    [
        {**PLAIN, "3": invert("99")},
        {**PLAIN, **{f"{n}": PLAIN["1"] for n in range(100, 10_100)}},
        row(400, used=False),
    ],
    ids=["a link to nowhere that nobody needs", "10,000 nodes side by side", "400 nodes in a row"],
)
def test_a_graph_that_comfyui_runs_is_run(api: Api, clean: Comfyui, graph: Graph) -> None:
    assert api("POST", "/prompt", json={"prompt": graph}).status_code == 200


DEEP = json.dumps({"prompt": graphs.changed(PLAIN, "1", zz="deep")})


@pytest.mark.parametrize("levels", [900, 100_000])
def test_the_stand_in_answers_a_deep_graph_and_goes_on(standin: Standin, levels: int) -> None:
    """Its worker died while it copied the graph, and nothing ran any more."""
    print("injected: a graph nested so deep that it cannot be copied, past the server, to ComfyUI itself")
    assert standin.post("/prompt", data=DEEP.replace('"deep"', "[" * levels + "]" * levels)).status_code == 500
    assert runs(standin, PLAIN) == "success"


@pytest.mark.parametrize("graph", [BAD[name][0] for name in BAD if "nobody declares" in name])
def test_the_stand_in_fails_a_graph_that_it_cannot_walk_and_goes_on(standin: Standin, graph: Graph) -> None:
    assert runs(standin, graph) == "error"
    assert runs(standin, PLAIN) == "success"


def runs(standin: Standin, graph: Graph) -> str:
    """How a prompt ends in the stand-in itself."""
    prompt_id = standin.post("/prompt", {"prompt": graph}).json()["prompt_id"]
    wait_until(lambda: prompt_id in standin.get(f"/history/{prompt_id}").json())
    return str(standin.get(f"/history/{prompt_id}").json()[prompt_id]["status"]["status_str"])
