"""The answers of comfyui-api 1.18.0 to recorded requests, and ours: as the reference, or better on purpose."""

import json
import re
from typing import Any

import pytest

from tests.support import graphs
from tests.support.api import Api
from tests.support.comfyui import Comfyui
from tests.support.paths import RECORDINGS

FILE = RECORDINGS / "comfyui-api" / "1.18.0.json"
RECORDED: dict[str, dict[str, Any]] = json.loads(FILE.read_text())

_BAD_OPTION = (400, "a bad option gives the unconverted PNG there")
_REJECTED = (400, "ComfyUI's validation is a 500 there, without its words")
_INPUT = (400, "an input that cannot be used is a 500 there")
_SAVES = (200, "there is something to save, whatever its prefix looks like")
_JSON = (415, "a body of another type is named as such")
_MORE = (200, "the outputs are lost there")

# Case to our status, and what is better about it.
BETTER: dict[str, tuple[int, str]] = {
    "convert-output: convert_jpeg_bad_chroma": _BAD_OPTION,
    "convert-output: convert_jpeg_q0": _BAD_OPTION,
    "convert-output: convert_jpeg_q101": _BAD_OPTION,
    "convert-output: convert_jpeg_q_float": _BAD_OPTION,
    "convert-output: convert_quant_table_9": _BAD_OPTION,
    "convert-output: convert_webp_effort7": _BAD_OPTION,
    "convert-output: convert_webp_preset_bad": _BAD_OPTION,
    "convert-output: convert_webp_preset_photo_q200": _BAD_OPTION,
    "routing: metrics": (200, "there are figures for Prometheus"),
    "convert-output: convert_png": (200, "png is a format as well"),
    "input-media: load_abs_path": (400, "absolute paths are refused"),
    "input-media: load_abs_path_outside": (400, "absolute paths are refused"),
    "input-media: load_base64_text": _INPUT,
    "input-media: load_data_url": (200, "data URIs are written corrupt there"),
    "input-media: load_empty": _INPUT,
    "input-media: load_image_number": _REJECTED,
    "input-media: load_rel_path": _INPUT,
    "prompt-errors: partial_validation_failure": (400, "only the valid outputs run there, without a word"),
    "prompt-errors: post_without_body": _JSON,
    "prompt-errors: text_plain": _JSON,
    "prompt-errors: unknown_node": _REJECTED,
    "prompt-errors: validation_bad_ckpt": _REJECTED,
    "prompt-errors: validation_dangling_link": _REJECTED,
    "prompt-errors: validation_missing_input": _REJECTED,
    "prompt-errors: validation_out_of_range": _REJECTED,
    "prompt-errors: validation_wrong_type": _REJECTED,
    "prompt-success: filename_prefix_empty": _SAVES,
    "prompt-success: filename_prefix_number": _SAVES,
    "prompt-success: save_output_false": _SAVES,
    "prompt-success: id_300_chars": (400, "too long an id is a 500 there"),
    "prompt-success: id_empty": (400, "an empty id names nothing"),
    "prompt-success: id_parent_dir": (200, "an id is no path"),
    "prompt-success: id_percent_format": (200, "an id is no format"),
    "prompt-success: id_with_slash": _MORE,
    "prompt-success: prefix_with_subfolder": _MORE,
    "prompt-success: same_id_same_prompt_again": _MORE,
    "workflows: flux_dev_text2img": (200, "the checkpoint has a default"),
    "workflows: negative_seed": _REJECTED,
    "workflows: no_checkpoint": (200, "the checkpoint has a default"),
}
# Cases that need what this test does not have.
LEFT_OUT = {
    "input-media: load_base64_jpeg": "the recording has the picture's hash only; tests/test_inputs.py has its own",
    "input-media: load_plain_filename": "depends on what is in the input folder; see tests/test_inputs.py",
    "input-media: load_image_mask_base64": "the stand-in has no LoadImageMask",
    "prompt-errors: interrupted_by_comfy_interrupt": "somebody interrupts it; see tests/test_interrupt.py",
    "workflows: comfy_validation_error": "a workflow of the recorded installation",
    "workflows: lora": "a workflow of the recorded installation",
    "workflows: sdxl": "a workflow of the recorded installation",
}


@pytest.mark.parametrize("case", sorted(RECORDED.keys() - LEFT_OUT.keys()))
def test_a_recorded_request_is_answered_as_by_the_reference_or_better(api: Api, clean: Comfyui, case: str) -> None:
    recorded = RECORDED[case]
    answer = api(recorded["method"], recorded["path"], headers=recorded["headers"], data=body(recorded["body"]))
    expected = BETTER[case][0] if case in BETTER else recorded["status"]
    assert answer.status_code == expected, answer.text[:500]
    if case not in BETTER and expected == 200 and "filenames" in recorded:
        assert set(recorded["keys"]) <= answer.json().keys()
        names = [re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", name) for name in answer.json()["filenames"]]
        wanted = [re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", name) for name in recorded["filenames"]]
        assert sorted(names) == sorted(wanted)
    if expected >= 400:
        assert {"statusCode", "code", "error"} <= answer.json().keys()


def body(recorded: Any) -> bytes | None:
    """The request's body as it was sent: text as it is, pictures and the recorder's nodes replaced by ours."""
    if recorded is None:
        return None
    if isinstance(recorded, dict) and recorded.keys() == {"__text"}:
        return str(recorded["__text"]).encode()
    text = json.dumps(recorded).replace("StubSleep", "EmulatorSleep").replace("StubFail", "EmulatorFail")
    picture = graphs.as_base64(graphs.picture((96, 64)))
    return re.sub(r"<base64 [^>]*PNG[^>]*>", picture, text).encode()


def test_the_tables_name_recorded_cases_only() -> None:
    assert (BETTER.keys() | LEFT_OUT.keys()) - RECORDED.keys() == set()
    assert BETTER.keys() & LEFT_OUT.keys() == set()
