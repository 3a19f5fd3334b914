"""The pure functions on graphs, for node classes that the stand-in does not have."""

from typing import Any

from handler.graphs import NodeClass, graph, node_class

SAVE = {"SaveVideo": NodeClass(output=True)}


def node(class_type: str, **inputs: Any) -> Any:
    return {"class_type": class_type, "inputs": inputs}


def test_a_linked_prefix_is_replaced_too() -> None:
    """Only ComfyUI knows its value: the file would land beside the job's folder, and stay there."""
    prompt = {"1": node("SaveVideo", filename_prefix=["5", 0])}
    ready = graph.prefix_outputs(prompt, SAVE, folder="f", stem="id", keep=True)
    assert ready["1"]["inputs"]["filename_prefix"] == "f/id_ComfyUI"
    assert prompt["1"]["inputs"]["filename_prefix"] == ["5", 0]


def test_a_prefix_that_is_a_number_is_a_text_to_comfyui() -> None:
    """It saved beside the job's folder, and the file stayed there."""
    ready = graph.prefix_outputs({"1": node("SaveVideo", filename_prefix=5)}, SAVE, folder="f", stem="id", keep=True)
    assert ready["1"]["inputs"]["filename_prefix"] == "f/id_5"


def test_a_prefix_of_a_node_that_saves_nothing_is_left_alone() -> None:
    prompt = {"1": node("Text", filename_prefix="mine"), "2": node("Unknown", filename_prefix="mine")}
    classes = {"Text": NodeClass(), "Unknown": None}
    assert graph.prefix_outputs(prompt, classes, folder="f", stem="id", keep=True) == prompt


def test_declared_uploads_are_found_and_nothing_else() -> None:
    info = {
        "output_node": False,
        "input": {
            "required": {"image": [["a.png"], {"image_upload": True}], "text": ["STRING", {"multiline": True}]},
            "optional": {"sound": ["COMBO", {"audio_upload": True, "options": []}], "mask": ["MASK"]},
        },
    }
    known = node_class("Both", info)
    assert known == NodeClass(output=False, uploads={"image": "image", "sound": "audio"})
    prompt = {"1": node("Both", image="x", text="http://example.com/a.png", sound=["2", 0], mask="y")}
    assert [(place.name, place.value, place.medium) for place in graph.media_inputs(prompt, {"Both": known})] == [
        ("image", "x", "image")
    ]


def test_a_folder_of_vhs_may_be_a_list() -> None:
    known = node_class("VHS_LoadImages", {"input": {"required": {"directory": [["a"], {}]}}, "output_node": False})
    prompt = {"1": node("VHS_LoadImages", directory=["u1", "u2"]), "2": node("VHS_LoadImages", directory="there")}
    (place,) = graph.media_inputs(prompt, {"VHS_LoadImages": known})
    assert (place.value, place.location) == (["u1", "u2"], "prompt.1.inputs.directory")


def test_an_invalid_title_is_ignored() -> None:
    untitled, titled = node("A"), node("A")
    untitled["_meta"], titled["_meta"] = None, {"title": "T"}
    assert graph.describe_node("1", untitled) == "node 1 (A)"
    assert graph.describe_node("1", titled) == "node 1 (A, 'T')"
