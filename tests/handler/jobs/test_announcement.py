"""What webhooks say: the bodies, next to those that the reference was recorded with."""

import re
from typing import Any

import orjson
import pytest

from handler.errors import HandlerError, OutOfMemory, PromptRejected
from handler.jobs.announcement import failure_webhooks, success_webhooks
from handler.schemas.request import PromptRequest
from handler.schemas.result import Result
from handler.validation import validate
from handler.webhooks.queue import Delivery
from tests.support import graphs

GRAPH = graphs.txt2img()
STATS = {
    "comfy_execution": {"start": 1, "end": 2, "duration": 1, "nodes": {"9": {"start": 1}}},
    **dict.fromkeys(("preprocess_time", "queue_time", "comfy_round_trip_time", "postprocess_time"), 1.0),
    "upload_time": 1.0,
    "total_time": 5.0,
}
TOKEN = {"url_pattern": "https://x/**", "auth": {"type": "bearer", "token": "hush"}}


def request(**options: Any) -> PromptRequest:
    return validate(PromptRequest, {"prompt": GRAPH, "id": "w/1", "credentials": [TOKEN], **options})


def file(number: int) -> dict[str, Any]:
    """An entry of outputs."""
    name = f"w_Flux_{number:05}_.png"
    node = {"node_id": "9", "class_type": "SaveImage", "title": "Save"}
    return {"filename": name, **node, "kind": "image", "mime_type": "image/png", "size": 4, "width": 8, "height": 8}


TEXT = {
    "filename": None,
    "node_id": "7",
    "class_type": "PreviewAny",
    "title": "Say",
    "kind": "text",
    "mime_type": "text/plain",
    "size": 3,
    "text": "hi!",
}


def result(asked: PromptRequest, *outputs: dict[str, Any]) -> Result:
    files = [output for output in outputs if output["filename"]]
    return Result.model_validate(
        {
            **{name: value for name, value in asked.echo().items() if name != "prompt"},
            "id": asked.id,
            "prompt": GRAPH,
            "images": [f"picture {number}" for number in range(len(files))],
            "filenames": [output["filename"] for output in files],
            "outputs": outputs,
            "stats": STATS,
        }
    )


def bodies(deliveries: list[Delivery]) -> list[dict[str, Any]]:
    return [orjson.loads(delivery.body) for delivery in deliveries]


def test_the_legacy_hook_gets_every_file_in_order() -> None:
    asked = request(webhook="http://hook/1")
    made = success_webhooks(asked, result(asked, file(1), file(2)))
    assert {(one.url, one.webhook_id, one.standard) for one in made} == {("http://hook/1", "w/1", False)}
    first, second = bodies(made)
    # The reference's keys, and `output`.
    assert first.keys() == {"event", "image", "id", "filename", "prompt", "stats", "output"}
    assert (first["event"], first["id"], first["prompt"]) == ("output.complete", "w/1", GRAPH)
    assert (first["image"], first["filename"]) == ("picture 0", "w_Flux_00001_.png")
    assert (second["image"], second["filename"]) == ("picture 1", "w_Flux_00002_.png")
    assert first["output"] == file(1)
    assert first["stats"]["comfy_execution"]["nodes"] == {"9": {"start": 1}}


def test_texts_ride_along_with_the_files() -> None:
    asked = request(webhook="http://hook/1")
    (body,) = bodies(success_webhooks(asked, result(asked, TEXT, file(1))))
    assert body["output"]["filename"] == body["filename"]
    assert [text["text"] for text in body["texts"]] == ["hi!"]


@pytest.mark.parametrize(("outputs", "texts"), [([TEXT, TEXT], ["hi!", "hi!"]), ([], [])])
def test_a_job_whose_only_outputs_are_texts_ends_with_one_event_too(
    outputs: list[dict[str, Any]], texts: list[str]
) -> None:
    """The reference sends nothing then, and the caller waits for ever."""
    asked = request(webhook="http://hook/1")
    (body,) = bodies(success_webhooks(asked, result(asked, *outputs)))
    assert body["event"] == "output.complete"
    assert not body.keys() & {"image", "filename", "output"}
    assert [text["text"] for text in body.get("texts", [])] == texts


def test_the_second_hook_gets_the_whole_answer_once() -> None:
    asked = request(webhook_v2="http://hook/2", convert_output={"format": "jpeg"}, s3={"bucket": "b"})
    (made,) = success_webhooks(asked, result(asked, file(1), file(2), TEXT))
    assert (made.url, made.webhook_id, made.standard) == ("http://hook/2", "w/1", True)
    (body,) = bodies([made])
    keys = {"type", "timestamp", "id", "prompt", "images", "filenames", "outputs", "stats"}
    assert body.keys() == keys | {"webhook_v2", "convert_output", "s3"}
    assert body["type"] == "prompt.complete"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["timestamp"])
    assert body["images"] == ["picture 0", "picture 1"]
    assert len(body["outputs"]) == 3
    assert body["s3"] == {"bucket": "b", "prefix": "", "async": False}


def test_both_hooks_get_theirs_and_neither_the_credentials() -> None:
    asked = request(webhook="http://hook/1", webhook_v2="http://hook/2")
    made = success_webhooks(asked, result(asked, file(1))) + failure_webhooks(asked, GRAPH, HandlerError("No."))
    assert [one.url for one in made] == ["http://hook/1", "http://hook/2"] * 2
    assert not [one for one in made if b"hush" in one.body or b"credentials" in one.body]


@pytest.mark.parametrize("options", [{}, {"webhook": "", "webhook_v2": ""}])
def test_without_a_hook_nothing_is_made(options: dict[str, str]) -> None:
    asked = request(**options)
    assert success_webhooks(asked, result(asked, file(1))) == []
    assert failure_webhooks(asked, GRAPH, HandlerError("No.")) == []


def test_a_failure_says_what_and_where() -> None:
    asked = request(webhook="http://hook/1", webhook_v2="http://hook/2")
    error = OutOfMemory("Out of memory.", node_id="31", class_type="KSampler", exception_type="OOM")
    legacy, standard = bodies(failure_webhooks(asked, GRAPH, error))
    common = {"id": "w/1", "prompt": GRAPH, "code": "OUT_OF_MEMORY", "error": "Out of memory."}
    assert legacy == {"event": "prompt.failed", **common, "location": "prompt.31"}
    assert standard.pop("timestamp")
    assert standard == {"type": "prompt.failed", **common, "location": "prompt.31"}


def test_a_rejected_prompt_brings_comfyui_s_own_table() -> None:
    error = PromptRejected("No.", location="prompt.31", node_errors={"31": {"errors": []}})
    (body,) = bodies(failure_webhooks(request(webhook="http://hook/1"), GRAPH, error))
    assert body["node_errors"] == {"31": {"errors": []}}


def test_a_bug_says_nothing_of_itself() -> None:
    (body,) = bodies(failure_webhooks(request(webhook="http://hook/1"), GRAPH, KeyError("/secret/path")))
    assert body["code"] == "INTERNAL"
    assert "secret" not in str(body)
    assert "location" not in body


def test_what_orjson_cannot_write_is_written_all_the_same() -> None:
    odd = {"1": {"class_type": "X", "inputs": {"seed": 1 << 70, "text": "\ud800"}}}
    (made,) = failure_webhooks(request(webhook="http://hook/1"), odd, HandlerError("No."))
    assert b'"seed": 1180591620717411303424' in made.body
