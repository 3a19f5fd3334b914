"""The operator's webhook: ComfyUI's messages and storage events."""

import time
from typing import Any

import pytest
from standardwebhooks import Webhook

from handler.comfyui.client import ComfyClient
from handler.settings import BadSettings, Settings
from handler.ticket import Ticket
from handler.webhooks.system_events import SystemEvents
from tests.support import graphs
from tests.support.comfyui import Comfyui
from tests.support.ports import free_port
from tests.support.receivers import SILENT, Receiver
from tests.support.waiting import wait_until

ALL = {"SYSTEM_WEBHOOK_EVENTS": "all", "WEBHOOK_SECRET": "testsecret"}
PROMPT_ID, FOLDER = "0b9c6c0e-55e4-4a4b-9b52-2a0a5a9f3c11", "66d2c1a8e0f94b17"


def events(receiver: Receiver, environ: dict[str, str] = ALL, **options: Any) -> SystemEvents:
    return SystemEvents(Settings.from_environ({"SYSTEM_WEBHOOK_URL": receiver.url, **environ}), **options)


def bodies(receiver: Receiver) -> list[dict[str, Any]]:
    return [got.json for got in receiver.got]


def test_a_run_s_messages_arrive_signed_in_order_and_in_the_caller_s_words(
    receiver: Receiver, comfyui: Comfyui
) -> None:
    sender = events(receiver, {**ALL, "SYSTEM_META_TEAM": "x", "SALAD_MACHINE_ID": "machine-1"})
    sender.start()
    graph = graphs.txt2img(seed=77_001)
    graph["9"]["inputs"]["filename_prefix"] = f"{FOLDER}/sys-1_Flux"
    comfy = ComfyClient(comfyui.url)
    ticket = Ticket()
    ticket.prompt_id = PROMPT_ID
    comfy.run(
        graph,
        ticket,
        deadline=time.monotonic() + 30,
        on_message=sender.for_prompt(PROMPT_ID, "sys-1", FOLDER),
    )
    comfy.forget(PROMPT_ID)
    sender.stop(10)
    told = [body for body in bodies(receiver) if body["event"] != "comfy.status"]
    names = [body["event"] for body in told]
    assert [names[0], *names[-2:]] == ["comfy.execution_start", "comfy.execution_success", "comfy.executing"]
    assert {"comfy.execution_cached", "comfy.progress", "comfy.progress_state", "comfy.executed"} < set(names)
    for got in receiver.got:
        Webhook("testsecret").verify(got.body, got.headers)
        assert got.json["metadata"] == {"TEAM": "x", "salad_machine_id": "machine-1"}
        assert f"comfy.{got.json['data']['type']}" == got.json["event"]
        assert PROMPT_ID.encode() not in got.body
        assert FOLDER.encode() not in got.body
    assert {body["data"]["data"]["prompt_id"] for body in told} == {"sys-1"}
    assert len({got.headers["webhook-id"] for got in receiver.got}) == len(receiver.got)
    executed = next(body for body in told if body["event"] == "comfy.executed")
    assert executed["data"]["data"]["output"] == {
        "images": [{"filename": "sys-1_Flux_00001_.png", "subfolder": "", "type": "output"}]
    }


def test_only_what_is_subscribed_to_is_sent(receiver: Receiver) -> None:
    sender = events(receiver, {"SYSTEM_WEBHOOK_EVENTS": " executed, file_uploaded ,"})
    sender.start()
    tell = sender.for_prompt(PROMPT_ID, "a", FOLDER)
    for kind in ("execution_start", "executed", "crystools.monitor", "file_deleted"):
        tell({"type": kind, "data": {"prompt_id": PROMPT_ID}})
    sender.emit("file_deleted", {})
    sender.emit("file_uploaded", {"url": "s3://b/k", "size": 3})
    sender.stop(10)
    assert bodies(receiver) == [
        {"event": "comfy.executed", "data": {"type": "executed", "data": {"prompt_id": "a"}}, "metadata": {}},
        {"event": "storage.file_uploaded", "data": {"url": "s3://b/k", "size": 3}, "metadata": {}},
    ]
    assert "webhook-signature" not in receiver.got[0].headers


def test_the_same_state_of_the_queue_is_told_once(receiver: Receiver) -> None:
    sender = events(receiver)
    sender.start()
    for left, sid in ((0, "1"), (1, None), (1, "2"), (0, None)):
        message = {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": left}}}}
        sender.for_prompt(PROMPT_ID, "a", FOLDER)({**message, "sid": sid} if sid else message)
    sender.stop(10)
    told = [body["data"] for body in bodies(receiver)]
    assert [message["data"]["status"]["exec_info"]["queue_remaining"] for message in told] == [0, 1, 0]
    assert told[0]["sid"] == "1"


def test_subfolders_and_paths_lose_the_job_s_folder_only(receiver: Receiver) -> None:
    sender = events(receiver)
    sender.start()
    output = {"gifs": [{"subfolder": f"{FOLDER}/mine", "fullpath": f"/out/{FOLDER}/mine/a.mp4"}, {"subfolder": FOLDER}]}
    data = {"output": output, "prompt_id": PROMPT_ID, "nodes": None}
    sender.for_prompt(PROMPT_ID, "a", FOLDER)({"type": "executed", "data": data})
    sender.stop(10)
    told = bodies(receiver)[0]["data"]["data"]
    assert told["output"] == {"gifs": [{"subfolder": "mine", "fullpath": "/out/mine/a.mp4"}, {"subfolder": ""}]}
    assert data["prompt_id"] == PROMPT_ID  # the message itself is not changed


def test_an_event_gets_a_second_try_and_no_third(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.answers = [500, 200, 500, 500, 200, 404, 200]
    sender = events(receiver, pause_s=0.01)
    sender.start()
    for number in range(5):
        sender.emit("file_deleted", {"number": number})
    sender.stop(10)
    assert [body["data"]["number"] for body in bodies(receiver)] == [0, 0, 1, 1, 2, 3, 4]
    assert receiver.got[0].headers["webhook-id"] == receiver.got[1].headers["webhook-id"]
    # The second loss within a minute is counted, and not reported.
    assert caplog.text.count("system events were dropped") == 1


def test_a_receiver_that_hangs_costs_a_job_no_time(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.answers = [SILENT] * 4
    sender = events(receiver, max_waiting=10, timeout_s=0.1, pause_s=0.01)
    sender.start()
    sender.emit("file_deleted", {"number": 0})
    wait_until(lambda: bool(receiver.got))
    tell = sender.for_prompt(PROMPT_ID, "a", FOLDER)
    began = time.perf_counter()
    for _ in range(100):
        tell({"type": "progress", "data": {"value": 1, "max": 100, "prompt_id": PROMPT_ID}})
    took = time.perf_counter() - began
    sender.stop(10)
    assert took < 5
    assert len(receiver.got) == 2 + 2 + 9
    assert "there is no room for more" in caplog.text


def test_stopping_does_not_wait_for_a_receiver_that_hangs(receiver: Receiver) -> None:
    receiver.answers = [SILENT]
    sender = events(receiver, timeout_s=3, pause_s=0.01)
    sender.start()
    sender.emit("file_deleted", {})
    wait_until(lambda: bool(receiver.got))
    began = time.monotonic()
    sender.stop(0.1)
    assert time.monotonic() - began < 2.5


def test_what_is_no_json_is_dropped_and_the_rest_goes_on(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    sender = events(receiver)
    sender.start()
    sender.emit("file_uploaded", {"content": b"\x89PNG"})
    sender.emit("file_uploaded", {})
    sender.stop(10)
    assert [body["data"] for body in bodies(receiver)] == [{}]
    assert "1 system events were dropped" in caplog.text


def test_nobody_listening_is_no_trouble() -> None:
    environ = {"SYSTEM_WEBHOOK_URL": f"http://127.0.0.1:{free_port()}/sys", **ALL}
    sender = SystemEvents(Settings.from_environ(environ), pause_s=0.01)
    sender.start()
    sender.emit("file_deleted", {})
    sender.stop(10)


@pytest.mark.parametrize(
    "environ",
    [{}, {"SYSTEM_WEBHOOK_URL": "http://h/"}, {"SYSTEM_WEBHOOK_EVENTS": "all"}, {"SYSTEM_WEBHOOK_EVENTS": ""}],
)
def test_without_a_subscription_nothing_is_started(environ: dict[str, str]) -> None:
    sender = SystemEvents(Settings.from_environ(environ))
    sender.start()
    sender.emit("file_deleted", {})
    sender.for_prompt(PROMPT_ID, "a", FOLDER)({"type": "executed", "data": {}})
    assert not sender._thread.is_alive()
    assert sender._waiting.empty()
    sender.stop()


def test_an_unknown_event_stops_the_start_and_names_the_known_ones() -> None:
    with pytest.raises(BadSettings, match=r"no executd; there are: all, status, progress, .*file_deleted"):
        SystemEvents(Settings.from_environ({"SYSTEM_WEBHOOK_EVENTS": "executed,executd"}))


@pytest.mark.parametrize("url", ["hook.example.com", "ftp://h/", "http://"])
def test_a_url_that_is_none_stops_the_start(url: str) -> None:
    with pytest.raises(BadSettings, match="SYSTEM_WEBHOOK_URL"):
        Settings.from_environ({"SYSTEM_WEBHOOK_URL": url})


def test_metadata_comes_from_its_own_variables_and_from_salad_s(caplog: pytest.LogCaptureFixture) -> None:
    names = ["ORGANIZATION_NAME", "ORGANIZATION_ID", "PROJECT_NAME", "PROJECT_ID", "CONTAINER_GROUP_NAME"]
    names += ["CONTAINER_GROUP_ID", "INSTANCE_ID", "MACHINE_ID"]
    salad = {f"SALAD_{name}": name for name in names}
    settings = Settings.from_environ({"SYSTEM_META_foo": "bar", "SYSTEM_META_TEAM": "x", "SYSTEM_META": "?", **salad})
    assert settings.system_meta == {"foo": "bar", "TEAM": "x", **{k.lower(): v for k, v in salad.items()}}
    assert Settings.from_environ({"SALAD_MACHINE_ID": ""}).system_meta == {}
    assert caplog.text == ""
