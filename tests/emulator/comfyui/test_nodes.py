"""The stand-in's nodes: what they draw, change and save."""

import json
from typing import Any

import pytest
from PIL import Image, ImageChops

from tests.support.standin import Standin
from tests.support.standin_graphs import Graph, files, finished, node, pictures, txt2img, uploaded

RED, BLUE = (250, 10, 10), (10, 10, 250)


def distance(first: Image.Image, second: Image.Image) -> float:
    """The mean difference of two pictures, in levels of 256."""
    difference = ImageChops.difference(first.convert("RGB"), second.convert("RGB")).convert("L")
    return sum(level * count for level, count in enumerate(difference.histogram())) / (first.width * first.height)


def through(
    standin: Standin, *chain: dict[str, Any], color: int = 0xFA0A0A, size: tuple[int, int] = (60, 40)
) -> Image.Image:
    """Send a plain picture through nodes whose picture input is `image`, and see what is saved."""
    graph: Graph = {"0": node("EmptyImage", width=size[0], height=size[1], batch_size=1, color=color)}
    for number, step in enumerate(chain, start=1):
        graph[str(number)] = {**step, "inputs": {**step["inputs"], "image": [str(number - 1), 0]}}
    graph["9"] = node("SaveImage", filename_prefix="through", images=[str(len(chain)), 0])
    return pictures(standin, graph)[0]


def test_the_same_sampling_gives_the_same_picture(standin: Standin) -> None:
    first = pictures(standin, txt2img())[0]
    standin.forget()
    second = pictures(standin, txt2img())[0]

    assert distance(first, second) == 0


@pytest.mark.parametrize("other", [txt2img(seed=2), txt2img("a fox")], ids=["seed", "text"])
def test_another_seed_or_text_gives_another_picture(other: Graph, standin: Standin) -> None:
    assert distance(pictures(standin, txt2img())[0], pictures(standin, other)[0]) > 1


def test_the_picture_has_the_size_of_the_latent(standin: Standin) -> None:
    graph = txt2img()
    graph["5"]["inputs"] |= {"width": 136, "height": 72}

    assert pictures(standin, graph)[0].size == (136, 72)


def test_pictures_of_a_batch_differ(standin: Standin) -> None:
    first, second, third = pictures(standin, txt2img(batch=3))

    assert distance(first, second) > 1
    assert distance(second, third) > 1


def test_the_graph_and_the_extra_facts_are_in_the_png(standin: Standin) -> None:
    graph = txt2img()
    entry = finished(standin, graph, extra_data={"extra_pnginfo": {"workflow": {"nodes": []}, "note": "hi"}})

    with Image.open(standin.base / "output" / files(entry)[0]["filename"]) as picture:
        assert json.loads(picture.info["prompt"]) == graph
        assert json.loads(picture.info["workflow"]) == {"nodes": []}
        assert json.loads(picture.info["note"]) == "hi"


def test_img2img_resembles_its_input_the_more_the_less_it_is_denoised(standin: Standin) -> None:
    source = Image.new("RGB", (64, 64), RED)
    name = uploaded(standin, source, "source.png")["name"]

    def result(denoise: float) -> Image.Image:
        graph = txt2img("", seed=5)
        graph["10"] = node("LoadImage", image=name)
        graph["11"] = node("VAEEncode", pixels=["10", 0], vae=["4", 2])
        graph["3"]["inputs"] |= {"latent_image": ["11", 0], "denoise": denoise}
        return pictures(standin, graph)[0]

    assert 0 < distance(result(0.2), source) < distance(result(0.6), source) < distance(result(1.0), source)


def test_an_encoded_picture_comes_back_from_decoding(standin: Standin) -> None:
    graph = txt2img()
    graph["10"] = node("LoadImage", image=uploaded(standin, Image.new("RGB", (64, 64), BLUE), "blue.png")["name"])
    graph["11"] = node("VAEEncode", pixels=["10", 0], vae=["4", 2])
    graph["8"]["inputs"]["samples"] = ["11", 0]

    assert pictures(standin, graph)[0].convert("RGB").getpixel((5, 5)) == BLUE


def test_invert_inverts(standin: Standin) -> None:
    assert through(standin, node("ImageInvert")).getpixel((5, 5)) == (5, 245, 245)


@pytest.mark.parametrize(
    ("width", "height", "crop", "size"),
    [
        (30, 30, "disabled", (30, 30)),
        (30, 0, "disabled", (30, 20)),
        (0, 0, "disabled", (60, 40)),
        (10, 30, "center", (10, 30)),
    ],
)
def test_image_scale_scales(width: int, height: int, crop: str, size: tuple[int, int], standin: Standin) -> None:
    scale = node("ImageScale", upscale_method="lanczos", width=width, height=height, crop=crop)

    assert through(standin, scale).size == size


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"method": "stretch"}, (30, 30)),
        ({"method": "keep proportion"}, (30, 20)),
        ({"method": "keep proportion", "width": 0}, (45, 30)),
        ({"method": "fill / crop"}, (30, 30)),
        ({"method": "pad"}, (30, 30)),
        ({"condition": "upscale if smaller"}, (60, 40)),
        ({"condition": "downscale if bigger"}, (30, 30)),
        ({"method": "stretch", "multiple_of": 8}, (24, 24)),
    ],
)
def test_image_resize_resizes(options: dict[str, Any], size: tuple[int, int], standin: Standin) -> None:
    usual = {"width": 30, "height": 30, "interpolation": "nearest", "method": "stretch", "condition": "always"}
    resize = node("ImageResize+", **{**usual, "multiple_of": 0, **options})

    assert through(standin, resize).size == size


def test_a_padded_picture_has_its_margin(standin: Standin) -> None:
    pad = {"interpolation": "nearest", "method": "pad", "condition": "always", "multiple_of": 0}
    padded = through(standin, node("ImageResize+", width=60, height=60, **pad))

    assert padded.getpixel((30, 2)) == (0, 0, 0)
    assert padded.getpixel((30, 30)) == RED


@pytest.mark.parametrize("batch", [1, 3])
def test_animated_webp_has_a_frame_per_picture(batch: int, standin: Standin) -> None:
    graph = txt2img(batch=batch)
    options = {"fps": 10.0, "lossless": False, "quality": 80, "method": "default"}
    graph["9"] = node("SaveAnimatedWEBP", images=["8", 0], filename_prefix="animated", **options)

    entry = finished(standin, graph)

    assert entry["outputs"]["9"]["animated"] == [batch > 1]
    with Image.open(standin.base / "output" / files(entry)[0]["filename"]) as picture:
        assert (picture.format, getattr(picture, "n_frames", 1)) == ("WEBP", batch)


def test_preview_is_saved_among_the_temporary_files(standin: Standin) -> None:
    graph = txt2img()
    graph["9"] = node("PreviewImage", images=["8", 0])

    file = files(finished(standin, graph))[0]

    assert file["type"] == "temp"
    assert (standin.base / "temp" / file["filename"]).is_file()


def test_prefix_makes_folders_and_fills_in_tokens(standin: Standin) -> None:
    graph = txt2img(size=64)
    graph["9"]["inputs"]["filename_prefix"] = "a/b/%width%x%height%_%year%"

    file = files(finished(standin, graph))[0]

    assert file["subfolder"] == "a/b"
    assert file["filename"].startswith("64x64_20")
    assert (standin.base / "output" / "a" / "b" / file["filename"]).is_file()


def test_prefix_cannot_leave_the_output_folder(standin: Standin) -> None:
    graph = txt2img()
    graph["9"]["inputs"]["filename_prefix"] = "../escape"

    status = finished(standin, graph)["status"]

    assert status["status_str"] == "error"
    assert "outside the output folder" in status["messages"][-1][1]["exception_message"]
    assert not list(standin.base.glob("escape*"))


def test_the_counter_goes_on_after_the_highest_number(standin: Standin) -> None:
    (standin.base / "output" / "counted_00041_.png").touch()
    graph = txt2img()
    graph["9"]["inputs"]["filename_prefix"] = "counted"

    assert files(finished(standin, graph))[0]["filename"] == "counted_00042_.png"


def test_a_very_long_prompt_of_all_letters_is_drawn(standin: Standin) -> None:
    text = "日本 Würfel 🙂 " * 60_000

    assert pictures(standin, txt2img(text, size=256))[0].size == (256, 256)


def test_text_output_is_shown_in_the_history(standin: Standin) -> None:
    entry = finished(standin, {"1": node("EmulatorText", text="hello")})

    assert entry["outputs"] == {"1": {"text": ["hello"]}}


def failing(**inputs: Any) -> Graph:
    graph = txt2img()
    graph["20"] = node("EmulatorFail", image=["8", 0], **inputs)
    graph["9"]["inputs"]["images"] = ["20", 0]
    return graph


def test_a_failing_node_fails_its_prompt_with_its_message(standin: Standin) -> None:
    kind, error = finished(standin, failing(message="boom"))["status"]["messages"][-1]

    assert (kind, error["node_type"], error["exception_type"]) == ("execution_error", "EmulatorFail", "RuntimeError")
    assert error["exception_message"] == "boom\n"


def test_a_failing_node_can_run_out_of_memory(standin: Standin) -> None:
    error = finished(standin, failing(message="", kind="out of memory"))["status"]["messages"][-1][1]

    assert error["exception_type"] == "torch.OutOfMemoryError"
    assert error["exception_message"].startswith("CUDA out of memory.")
    assert "TIPS" in error["exception_message"]


def test_a_failing_node_can_let_the_picture_pass(standin: Standin) -> None:
    assert pictures(standin, failing(message="", kind="none"))


def test_a_new_model_file_is_a_choice_at_once(standin: Standin) -> None:
    new = standin.base / "models" / "checkpoints" / "sub" / "new.safetensors"
    new.parent.mkdir(exist_ok=True)
    new.touch()
    try:
        info = standin.get("/object_info/CheckpointLoaderSimple").json()["CheckpointLoaderSimple"]
        choices = info["input"]["required"]["ckpt_name"][0]
        assert "sub/new.safetensors" in choices
        assert standin.get("/models/checkpoints").json() == choices
    finally:
        new.unlink()
