"""Events in, answers out, through handler(event)'s pipeline."""

import concurrent.futures
import re
from pathlib import Path
from typing import Any

import pytest

from handler import Service
from handler.errors import GpuLost, OutOfMemory
from handler.pipeline import run
from tests.support import graphs
from tests.support.comfyui import Comfyui
from tests.support.events import refused

Answer = dict[str, Any]


def asked(service: Service, prompt: Any, **options: Any) -> Answer:
    return run({"input": {"prompt": prompt, **options}}, service)


def test_a_prompt_gives_its_picture(service: Service, clean: Comfyui) -> None:
    answer = asked(service, graphs.txt2img(), id="my-id")
    assert answer["id"] == "my-id"
    assert answer["filenames"] == ["my-id_Flux_00001_.png"]
    assert graphs.opened(answer["images"][0]).size == (64, 64)
    (output,) = answer["outputs"]
    assert (output["node_id"], output["class_type"], output["title"]) == ("9", "SaveImage", "Save the picture")
    assert (output["kind"], output["mime_type"]) == ("image", "image/png")
    assert (output["width"], output["height"]) == (64, 64)
    assert output["size"] == len(answer["images"][0]) * 3 // 4 - answer["images"][0].count("=")
    assert list(answer["prompt"]) == list(graphs.txt2img())


def test_the_answer_says_where_the_time_went(service: Service) -> None:
    stats = asked(service, graphs.txt2img(seed=2))["stats"]
    execution = stats["comfy_execution"]
    assert execution["end"] - execution["start"] == execution["duration"] > 0
    assert {"9", "8", "31"} <= execution["nodes"].keys()
    assert all(node["end"] >= node["start"] for node in execution["nodes"].values())
    parts = ("preprocess_time", "queue_time", "comfy_round_trip_time", "postprocess_time", "upload_time")
    assert stats["total_time"] >= sum(stats[part] for part in parts) - 1


def test_an_id_is_drawn_when_none_is_given(service: Service) -> None:
    first, second = (asked(service, graphs.empty())["id"] for _ in range(2))
    assert first != second


def test_the_event_s_own_id_serves_when_the_input_has_none(service: Service) -> None:
    assert run({"id": "job-1", "input": {"prompt": graphs.empty()}}, service)["id"] == "job-1"
    assert run({"id": "job-1", "input": {"prompt": graphs.empty(), "id": "mine"}}, service)["id"] == "mine"


@pytest.mark.parametrize(
    ("given", "filename"),
    [
        ("../../etc/passwd", "_.._etc_passwd_E_00001_.png"),
        ("a/b", "a_b_E_00001_.png"),
        ("é x", "é x_E_00001_.png"),
        (" . ", "__E_00001_.png"),
        ("写真", "写真_E_00001_.png"),
        ("%year%", "_year__E_00001_.png"),
        ("...", "__E_00001_.png"),
        ("x" * 255, "x" * 100 + "_E_00001_.png"),
    ],
)
def test_any_id_is_echoed_as_given_and_made_safe_in_file_names(
    service: Service, clean: Comfyui, given: str, filename: str
) -> None:
    answer = asked(service, graphs.empty(), id=given)
    assert answer["id"] == given
    assert answer["filenames"] == [filename]
    assert len(answer["images"]) == 1


def test_the_same_prompt_under_the_same_id_gives_its_outputs_again(service: Service, clean: Comfyui) -> None:
    """As the reference does not: ComfyUI answers from its cache with the name of a file that is long gone."""
    first, second = (asked(service, graphs.txt2img(seed=3), id="twice") for _ in range(2))
    assert first["filenames"] == second["filenames"]
    assert first["images"][0] != ""
    assert graphs.opened(first["images"][0]).tobytes() == graphs.opened(second["images"][0]).tobytes()


def test_the_same_id_at_once_does_not_mix_the_outputs(service: Service, clean: Comfyui) -> None:
    colors = [0x110000 * n for n in range(1, 9)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda color: asked(service, graphs.empty(color=color), id="same"), colors))
    shown = [graphs.opened(answer["images"][0]).getpixel((0, 0)) for answer in answers]
    assert shown == [(color >> 16, 0, 0) for color in colors]


def test_outputs_come_in_the_order_of_the_graph_then_of_the_batch(service: Service, clean: Comfyui) -> None:
    graph = {
        "save z": {"class_type": "SaveImage", "inputs": {"filename_prefix": "z", "images": ["8", 0]}},
        **graphs.txt2img(batch=2, seed=4),
        "text": {"class_type": "EmulatorText", "inputs": {"text": "hello"}},
        "save a": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a", "images": ["8", 0]}},
    }
    answer = asked(service, graph, id="o")
    names = [
        "o_z_00001_.png",
        "o_z_00002_.png",
        "o_Flux_00001_.png",
        "o_Flux_00002_.png",
        "o_a_00001_.png",
        "o_a_00002_.png",
    ]
    assert answer["filenames"] == names
    assert [output["node_id"] for output in answer["outputs"]] == ["save z"] * 2 + ["9"] * 2 + ["text"] + ["save a"] * 2
    assert answer["images"][0] != answer["images"][1]


def test_a_text_output_is_in_outputs_only(service: Service, clean: Comfyui) -> None:
    answer = asked(service, {"1": {"class_type": "EmulatorText", "inputs": {"text": "grüezi"}}})
    assert (answer["images"], answer["filenames"]) == ([], [])
    (output,) = answer["outputs"]
    assert (output["kind"], output["mime_type"], output["text"], output["size"]) == ("text", "text/plain", "grüezi", 7)


def test_an_animation_keeps_its_frames(service: Service, clean: Comfyui) -> None:
    save = {
        "class_type": "SaveAnimatedWEBP",
        "inputs": {
            "images": ["8", 0],
            "filename_prefix": "anim",
            "fps": 6.0,
            "lossless": True,
            "quality": 80,
            "method": "default",
        },
    }
    graph = {**graphs.txt2img(batch=3, seed=5), "9": save}
    plain = asked(service, graph)
    assert plain["outputs"][0]["mime_type"] == "image/webp"
    assert getattr(graphs.opened(plain["images"][0]), "n_frames", 1) == 3
    smaller = asked(service, graph, convert_output={"format": "webp", "options": {"quality": 5}})
    assert getattr(graphs.opened(smaller["images"][0]), "n_frames", 1) == 3
    assert len(smaller["images"][0]) < len(plain["images"][0])


def test_a_subfolder_in_the_prefix_is_kept_in_the_name(service: Service, clean: Comfyui) -> None:
    answer = asked(service, graphs.empty(prefix="a/b/pic"), id="i")
    assert answer["filenames"] == ["a/b/i_pic_00001_.png"]
    assert len(answer["images"]) == 1


@pytest.mark.parametrize(
    "prefix",
    [
        "../../up",
        "/abs/olute",
        "..\\win",
        "a/../../b",
        "x" * 400,
        "é" * 400 + "/y",
        "a/" * 3000 + "x",
        "",
        "/",
        "a\0\n",
    ],
)
def test_a_prefix_cannot_leave_the_job_s_folder(service: Service, clean: Comfyui, prefix: str) -> None:
    answer = asked(service, graphs.empty(prefix=prefix), id="i")
    assert ".." not in answer["filenames"][0]
    assert len(answer["images"]) == 1


def test_pictures_for_the_websocket_are_saved(service: Service, clean: Comfyui) -> None:
    """They are in no history: they were lost, and the answer was empty."""
    prompt = graphs.empty()
    prompt["2"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}
    answer = asked(service, prompt, id="ws")
    assert answer["filenames"] == ["ws_ComfyUI_00001_.png"]
    assert answer["outputs"][0]["class_type"] == answer["prompt"]["2"]["class_type"] == "SaveImage"
    assert graphs.opened(answer["images"][0]).size == (64, 64)
    assert prompt["2"]["class_type"] == "SaveImageWebsocket"


def test_previews_are_no_outputs(service: Service, clean: Comfyui) -> None:
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    answer = asked(service, {**graphs.empty(), "3": preview})
    assert [output["node_id"] for output in answer["outputs"]] == ["2"]


@pytest.mark.parametrize(("file_format", "ending"), [("jpeg", ".jpeg"), ("jpg", ".jpg"), ("webp", ".webp")])
def test_outputs_are_converted(service: Service, clean: Comfyui, file_format: str, ending: str) -> None:
    convert = {"format": file_format, "options": {"quality": 50}}
    answer = asked(service, graphs.txt2img(seed=6), id="c", convert_output=convert)
    assert answer["convert_output"] == convert
    assert answer["filenames"] == [f"c_Flux_00001_{ending}"]
    assert answer["outputs"][0]["mime_type"] == ("image/webp" if ending == ".webp" else "image/jpeg")
    assert graphs.opened(answer["images"][0]).format == ("WEBP" if ending == ".webp" else "JPEG")


def test_outputs_are_read_over_http_when_comfyui_has_another_disk(
    service: Service, comfyui: Comfyui, tmp_path: Path
) -> None:
    far = Service.load(service.settings.model_copy(update={"output_dir": tmp_path, "input_dir": tmp_path / "none"}))
    image = graphs.as_base64(graphs.picture(color="blue"))
    answer = run({"input": {"prompt": graphs.load(image), "id": "far"}}, far)
    assert answer["filenames"] == ["far_L_00001_.png"]
    assert graphs.opened(answer["images"][0]).getpixel((0, 0)) == (0, 0, 255)


def test_an_input_folder_that_is_not_comfyui_s_is_noticed(service: Service, comfyui: Comfyui, tmp_path: Path) -> None:
    far = Service.load(service.settings.model_copy(update={"input_dir": tmp_path}))
    answer = run({"input": {"prompt": graphs.load(graphs.as_base64(graphs.picture())), "id": "x"}}, far)
    assert len(answer["images"]) == 1
    assert list(tmp_path.iterdir()) == []


def test_unknown_fields_are_ignored_and_not_echoed(service: Service) -> None:
    answer = asked(service, graphs.empty(), nonsense=1, client_id="x")
    assert "nonsense" not in answer
    assert "client_id" not in answer


def test_without_prepended_prefixes_the_id_alone_names_the_files(service: Service, clean: Comfyui) -> None:
    bare = Service.load(service.settings.model_copy(update={"prepend_filenames": False}))
    assert run({"input": {"prompt": graphs.empty(), "id": "n"}}, bare)["filenames"] == ["n_00001_.png"]


def test_a_prompt_text_of_a_megabyte_works(service: Service, clean: Comfyui) -> None:
    assert len(asked(service, graphs.txt2img("word " * 200_000))["images"]) == 1


@pytest.mark.parametrize(
    ("given", "location", "says"),
    [
        (None, "input", "needs an `input` object"),
        ([], "input", "needs an `input` object"),
        ("text", "input", "needs an `input` object"),
        ({"prompt": graphs.empty(prefix="\ud800")}, "input", "surrogates not allowed"),
        ({"prompt": graphs.empty(), "webhook": "http://h/\ud800"}, "input", "surrogates not allowed"),
        ({"prompt": graphs.empty(width=10**5000)}, "input", "digits"),
        ({"prompt": graphs.empty(), "id": Path("x")}, "input", "JSON serializable"),
        ({}, "prompt", "Field required"),
        ({"prompt": None}, "prompt", "valid dictionary"),
        ({"prompt": "text"}, "prompt", "valid dictionary"),
        ({"prompt": []}, "prompt", "valid dictionary"),
        ({"prompt": {}}, "prompt", "nothing to save"),
        ({"prompt": {"1": None}}, "prompt.1", "valid dictionary"),
        ({"prompt": {"1": {"inputs": {}}}}, "prompt.1.class_type", "Field required"),
        ({"prompt": {"1": {"class_type": 3, "inputs": {}}}}, "prompt.1.class_type", "valid string"),
        ({"prompt": {"1": {"class_type": "A"}}}, "prompt.1.inputs", "Field required"),
        ({"prompt": {"1": {"class_type": "A", "inputs": None}}}, "prompt.1.inputs", "valid dictionary"),
        ({"prompt": {"nodes": [], "links": []}}, "prompt", r"Export \(API\)"),
        ({"prompt": graphs.empty(), "id": ""}, "id", "at least 1 character"),
        ({"prompt": graphs.empty(), "id": 5}, "id", "valid string"),
        ({"prompt": graphs.empty(), "id": None}, "id", "valid string"),
        ({"prompt": graphs.empty(), "id": "x" * 256}, "id", "at most 255 characters"),
        ({"prompt": graphs.empty(), "timeout_s": 0}, "timeout_s", "greater than 0"),
        ({"prompt": graphs.empty(), "convert_output": None}, "convert_output", "valid dictionary"),
        ({"prompt": graphs.empty(), "convert_output": {}}, "convert_output", "'format'"),
        ({"prompt": graphs.empty(), "convert_output": {"format": "gif"}}, "convert_output", "'jpeg'"),
        (
            {"prompt": graphs.empty(), "convert_output": {"format": "jpeg", "options": {"quality": 101}}},
            "convert_output.options.quality",
            "less than or equal to 100",
        ),
        (
            {"prompt": graphs.empty(), "convert_output": {"format": "webp", "options": {"preset": "loud"}}},
            "convert_output.options.preset",
            "'photo'",
        ),
        ({"prompt": graphs.empty(), "webhook": "nope"}, "webhook", "http or https URL"),
        ({"prompt": graphs.empty(), "webhook_v2": None}, "webhook_v2", "leave it out"),
        ({"prompt": graphs.empty(), "credentials": {}}, "credentials", "valid list"),
        (
            {"prompt": graphs.empty(), "credentials": [{"url_pattern": "*", "auth": {"type": "wat"}}]},
            "credentials.0.auth",
            "'bearer'",
        ),
    ],
)
def test_a_bad_request_says_what_is_wrong_and_where(
    service: Service, clean: Comfyui, given: Any, location: str | None, says: str
) -> None:
    error = refused(service, given)
    assert error.code == "BAD_REQUEST"
    assert error.location == location
    assert re.search(says, error.message)


def test_a_graph_without_a_bottom_or_an_end_is_refused(service: Service, clean: Comfyui) -> None:
    """It ended ComfyUI's worker by recursion, and what is wrong with so many nodes took gigabytes to say."""
    deep: Any = {}
    for _ in range(900):
        deep = {"a": [deep]}
    assert "levels deep" in refused(service, {"prompt": graphs.changed(graphs.empty(), "1", width=deep)}).message
    many = {str(n): 0 for n in range(20_001)}
    assert "20000 nodes" in refused(service, {"prompt": many}).message
    assert "`credentials`" in refused(service, {"prompt": graphs.empty(), "credentials": [0] * 101}).message
    assert "and 80 more" in refused(service, {"prompt": {str(n): 0 for n in range(100)}}).message


def test_all_that_is_wrong_is_listed(service: Service) -> None:
    error = refused(service, {"prompt": None, "id": 5, "timeout_s": "x"})
    assert all(f"`{name}`" in error.message for name in ("prompt", "id", "timeout_s"))


def test_previews_alone_are_nothing_to_save(service: Service, clean: Comfyui) -> None:
    graph = {**graphs.empty(), "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
    assert "nothing to save" in refused(service, {"prompt": graph}).message


def test_an_unknown_workflow_names_the_known_ones(service: Service) -> None:
    error = refused(service, {"workflow": "nope", "input": {}})
    assert error.code == "UNKNOWN_WORKFLOW"
    assert "flux/txt2img" in error.message


def failing(kind: str) -> graphs.Graph:
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 1}},
        "2": {"class_type": "EmulatorFail", "inputs": {"message": kind, "kind": kind, "image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"filename_prefix": "F", "images": ["2", 0]}},
    }


def test_a_job_without_memory_runs_once_more_with_memory_freed(service: Service, clean: Comfyui) -> None:
    assert asked(service, failing("out of memory until freed"), id="again")["filenames"] == ["again_F_00001_.png"]


def test_a_job_that_never_has_enough_memory_says_so(
    service: Service, clean: Comfyui, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refused(service, {"workflow": failing("out of memory")})
    assert (type(error), error.code) == (OutOfMemory, "OUT_OF_MEMORY")
    # Where there is no time for a second try there is none.
    monkeypatch.setattr("handler.jobs.execution._FREE_S", 60)
    assert isinstance(refused(service, {"workflow": failing("out of memory"), "timeout_s": 30}), OutOfMemory)


def test_a_lost_gpu_is_told_from_a_failing_node(service: Service, clean: Comfyui) -> None:
    error = refused(service, {"workflow": failing("gpu lost")})
    assert (type(error), error.code) == (GpuLost, "PROMPT_FAILED")
    assert "CUDA error" in error.message
