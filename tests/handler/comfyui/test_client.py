"""The conversation with ComfyUI: its refusals, failures, and silences."""

import math
import threading
import time
from typing import Any

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from handler import HandlerError, Job, Service
from handler.comfyui.client import ComfyClient
from handler.errors import ComfyError, PromptFailed, PromptInterrupted, PromptRejected, PromptTimeout
from handler.pipeline import execute, prepare, run
from tests.support import graphs
from tests.support.comfyui import Comfyui
from tests.support.live import served
from tests.support.waiting import wait_until


def refused(service: Service, prompt: Any, **options: Any) -> HandlerError:
    with pytest.raises(HandlerError) as caught:
        run({"input": {"prompt": prompt, **options}}, service)
    return caught.value


def test_an_unknown_class_is_named(service: Service, clean: Comfyui) -> None:
    error = refused(service, {**graphs.empty(), "7": {"class_type": "NoSuchNode", "inputs": {}}})
    assert error.code == "PROMPT_REJECTED"
    assert error.location == "prompt.7"
    assert "NoSuchNode" in error.message


def test_a_value_that_is_not_in_a_list_comes_with_the_nearest_names(service: Service, clean: Comfyui) -> None:
    error = refused(service, graphs.changed(graphs.txt2img(), "30", ckpt_name="flux-schnell-fp8.safetensors"))
    assert isinstance(error, PromptRejected)
    assert error.location == "prompt.30.inputs.ckpt_name"
    assert (
        "Node 30 (CheckpointLoaderSimple): ckpt_name 'flux-schnell-fp8.safetensors' is not in the list" in error.message
    )
    assert "did you mean 'flux1-schnell-fp8.safetensors'" in error.message
    assert error.node_errors["30"]["errors"][0]["type"] == "value_not_in_list"


def test_the_nearest_names_come_out_of_a_long_list_too(service: Service, clean: Comfyui) -> None:
    error = refused(service, graphs.changed(graphs.txt2img(), "31", sampler_name="eular"))
    assert "did you mean 'euler'" in error.message


def test_a_value_out_of_range_is_shown_with_its_node(service: Service, clean: Comfyui) -> None:
    error = refused(service, graphs.changed(graphs.txt2img(), "27", width=0))
    assert error.location == "prompt.27.inputs.width"
    assert "Node 27 (EmptySD3LatentImage): width: Value 0 smaller than min of 16" in error.message


def test_a_missing_input_and_a_link_to_nowhere_are_told(service: Service, clean: Comfyui) -> None:
    graph = graphs.txt2img()
    del graph["31"]["inputs"]["steps"]
    assert "Node 31 (KSampler): steps is missing" in refused(service, graph).message
    error = refused(service, graphs.changed(graphs.txt2img(), "8", samples=["99", 0]))
    assert "Node 8 (VAEDecode): samples is linked to node '99', which is not in the prompt" in error.message
    assert "Traceback" not in str(error.answer())
    assert ".py" not in str(error.answer())


def test_a_cycle_is_shown(service: Service, clean: Comfyui) -> None:
    scale = {"upscale_method": "nearest-exact", "width": 8, "height": 8, "crop": "disabled"}
    graph = {
        "1": {"class_type": "ImageScale", "inputs": {"image": ["2", 0], **scale}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"filename_prefix": "c", "images": ["1", 0]}},
    }
    assert "cycle" in refused(service, graph).message


def test_a_graph_of_which_only_some_outputs_are_valid_is_rejected(service: Service, clean: Comfyui) -> None:
    """ComfyUI would run the valid ones, and call that a success."""
    graph = graphs.empty() | {
        "5": {"class_type": "EmptyImage", "inputs": {"width": 0, "height": 8, "batch_size": 1, "color": 0}},
        "6": {"class_type": "SaveImage", "inputs": {"filename_prefix": "bad", "images": ["5", 0]}},
    }
    error = refused(service, graph)
    assert isinstance(error, PromptRejected)
    assert error.location == "prompt.5.inputs.width"


def test_a_failing_node_is_named_with_its_exception(service: Service, clean: Comfyui) -> None:
    graph = graphs.empty() | {
        "5": {
            "class_type": "EmulatorFail",
            "inputs": {"message": "the lamp is broken", "image": ["1", 0]},
            "_meta": {"title": "Lamp"},
        },
        "6": {"class_type": "SaveImage", "inputs": {"filename_prefix": "bad", "images": ["5", 0]}},
    }
    error = refused(service, graph)
    assert isinstance(error, PromptFailed)
    assert (error.code, error.node_id, error.class_type) == ("PROMPT_FAILED", "5", "EmulatorFail")
    assert error.message == "Node 5 (EmulatorFail, 'Lamp') failed: RuntimeError: the lamp is broken"
    assert error.location == "prompt.5"


def test_a_deadline_interrupts_the_prompt(service: Service, clean: Comfyui, comfyui: Comfyui) -> None:
    began = time.monotonic()
    error = refused(service, graphs.sleep(90), timeout_s=0.5)
    assert isinstance(error, PromptTimeout)
    assert time.monotonic() - began < 60
    assert comfyui.queue_remaining() == 0


def test_a_deadline_counts_the_waiting(service: Service, clean: Comfyui) -> None:
    single = Service.load(service.settings.model_copy(update={"comfyui_inflight": 1}))
    job = prepare({"input": {"prompt": graphs.long()}}, single)
    with _Running(single, job) as running:
        assert "before its turn" in refused(single, graphs.empty(), timeout_s=0.3).message
        single.comfy.interrupt(job.ticket)
        assert isinstance(running.error(), PromptInterrupted)


class _Running:
    """A job that executes in the background. `error` waits for what it raises."""

    def __init__(self, service: Service, job: Job) -> None:
        self._errors: list[HandlerError] = []
        self.began = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(service, job))

    def __enter__(self) -> "_Running":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(60)

    def error(self) -> HandlerError:
        self._thread.join(60)
        return self._errors[0]

    def _tell(self, message: Any) -> None:
        if message["type"] == "executing":
            self.began.set()

    def _run(self, service: Service, job: Job) -> None:
        try:
            execute(job, service, on_message=self._tell)
        except HandlerError as exc:
            self._errors.append(exc)


def test_a_running_prompt_is_interrupted(service: Service, clean: Comfyui) -> None:
    job = prepare({"input": {"prompt": graphs.long()}}, service)
    with _Running(service, job) as running:
        assert running.began.wait(60)
        assert service.comfy.interrupt(job.ticket) == "running"
        assert isinstance(running.error(), PromptInterrupted)


def test_a_waiting_prompt_that_is_cancelled_never_runs(service: Service, clean: Comfyui) -> None:
    single = Service.load(service.settings.model_copy(update={"comfyui_inflight": 1}))
    first, second = (prepare({"input": {"prompt": graphs.long(seed=n)}}, single) for n in (1, 2))
    with _Running(single, first) as inside:
        assert inside.began.wait(60)
        with _Running(single, second) as waiting:
            wait_until(lambda: len(single.comfy.admission) == 2)
            assert single.comfy.interrupt(second.ticket) == "queued"
            assert isinstance(waiting.error(), PromptInterrupted)
        assert not waiting.began.is_set()
        assert second.ticket.prompt_id not in clean.history()
        assert single.comfy.interrupt(first.ticket) == "running"
        inside.error()
    assert single.comfy.interrupt(first.ticket) is None


def test_no_more_prompts_than_allowed_are_inside_comfyui(service: Service, clean: Comfyui, comfyui: Comfyui) -> None:
    depths: list[int] = []

    def one(seed: int) -> None:
        run({"input": {"prompt": graphs.sleep(0.05, seed=seed)}}, service)
        depths.append(comfyui.queue_remaining())

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(depths) == 8
    assert max(depths) <= 2


def test_a_dropped_websocket_loses_nothing(service: Service, clean: Comfyui, comfyui: Comfyui) -> None:
    """The reference's every later request hangs after one drop."""
    if requests.post(f"{comfyui.url}/emulator/drop_sockets", timeout=30).status_code != 200:
        pytest.skip("a real ComfyUI does not drop its sockets on demand")
    job = prepare({"input": {"prompt": graphs.sleep(0.7)}}, service)
    dropped = threading.Event()

    def drop(message: Any) -> None:
        if message["type"] == "executing" and not dropped.is_set():
            dropped.set()
            requests.post(f"{comfyui.url}/emulator/drop_sockets", timeout=30)

    began = time.monotonic()
    assert len(execute(job, service, on_message=drop).images) == 1
    assert dropped.is_set()
    assert time.monotonic() - began < 60


def test_a_prompt_that_somebody_removes_from_the_queue_ends(service: Service, clean: Comfyui, comfyui: Comfyui) -> None:
    """ComfyUI tells nobody about a prompt that is deleted while it waits: its client would wait for ever."""
    first, second = (prepare({"input": {"prompt": graphs.long(seed=n)}}, service) for n in (3, 4))
    with _Running(service, first) as inside:
        assert inside.began.wait(60)
        with _Running(service, second) as waiting:
            wait_until(lambda: comfyui.queue_remaining() == 2)
            requests.post(f"{comfyui.url}/queue", json={"delete": [second.ticket.prompt_id]}, timeout=30)
            assert isinstance(waiting.error(), PromptInterrupted)
        service.comfy.interrupt(first.ticket)
        inside.error()


def test_a_comfyui_that_is_not_there_is_unreachable(service: Service) -> None:
    nowhere = Service.load(service.settings.model_copy(update={"comfyui_url": "http://127.0.0.1:9"}))
    assert refused(nowhere, graphs.empty()).code == "COMFYUI_UNREACHABLE"


def test_numbers_that_are_no_json_are_read_all_the_same() -> None:
    """ComfyUI sends NaN and Infinity: what a node's IS_CHANGED gives, and the limits of its inputs."""
    texts = {"Odd": '{"Odd": {"input": {}, "max": Infinity, "is_changed": [NaN]}}', "Broken": "<html>"}

    async def answer(request: Request) -> Response:
        return Response(texts[request.path_params["name"]])

    with served(Starlette(routes=[Route("/object_info/{name}", answer)])) as url:
        assert ComfyClient(url).info("Odd")["max"] == math.inf
        with pytest.raises(ComfyError, match="is not JSON"):
            ComfyClient(url).info("Broken")
