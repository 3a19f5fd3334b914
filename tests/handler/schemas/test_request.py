"""What the dialects of a request have in common, and where they differ."""

from typing import Any

import pytest

from handler.schemas import Request, Result, WorkerResult, parse_event

GRAPH = {"1": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}}}
IMAGE = {"name": "a.png", "image": "aGk="}


def request(**given: Any) -> Request:
    return parse_event({"input": {"id": "my id", **given}})


@pytest.mark.parametrize(
    ("given", "graph"),
    [
        ({"prompt": GRAPH}, GRAPH),
        ({"workflow": GRAPH}, GRAPH),
        ({"workflow": "flux/txt2img", "input": {}}, None),
    ],
    ids=["prompt", "worker-comfyui", "workflow"],
)
def test_a_request_has_its_graph_unless_a_workflow_makes_it(given: dict[str, Any], graph: object) -> None:
    assert request(**given).graph == graph


@pytest.mark.parametrize("given", [{"prompt": GRAPH}, {"workflow": "flux/txt2img", "input": {}}])
def test_our_own_dialects_save_files_named_after_the_request(given: dict[str, Any]) -> None:
    own = request(**given)

    assert (own.needs_output, own.uses_bucket, own.result_type) == (True, False, Result)
    assert own.file_stem == "my id"
    assert own.named_images == {}


def test_worker_comfyui_names_its_files_itself_and_uses_the_bucket() -> None:
    worker = request(workflow=GRAPH, images=[IMAGE])

    assert (worker.needs_output, worker.uses_bucket, worker.result_type) == (False, True, WorkerResult)
    assert worker.file_stem is None
    assert worker.named_images == {"a.png": "aGk="}


def test_the_result_says_only_in_worker_comfyuis_dialect_whether_it_was_uploaded() -> None:
    assert "uploaded" not in Result.model_json_schema()["properties"]
