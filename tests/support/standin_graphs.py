"""Graphs for tests of the stand-in, and what to do with them."""

import io
import json
from typing import Any

from PIL import Image

from tests.support.standin import Standin

Graph = dict[str, dict[str, Any]]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def txt2img(text: str = "a lighthouse", *, seed: int = 1, steps: int = 1, size: int = 64, batch: int = 1) -> Graph:
    return {
        "3": node(
            "KSampler",
            seed=seed,
            steps=steps,
            cfg=8.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
        ),
        "4": node("CheckpointLoaderSimple", ckpt_name="dreamshaper_8.safetensors"),
        "5": node("EmptyLatentImage", width=size, height=size, batch_size=batch),
        "6": node("CLIPTextEncode", text=text, clip=["4", 1]),
        "7": node("CLIPTextEncode", text="text, watermark", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="test", images=["8", 0]),
    }


def submitted(standin: Standin, graph: Graph, **options: Any) -> str:
    """Queue a graph; returns the prompt's id."""
    answer = standin.post("/prompt", {"prompt": graph, **options})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["prompt_id"])


def finished(standin: Standin, graph: Graph, **options: Any) -> dict[str, Any]:
    """Run a graph to its end; returns the history entry."""
    socket = standin.socket("waiting")
    try:
        prompt_id = submitted(standin, graph, client_id="waiting", **options)
        messages_until_end(socket, prompt_id)
    finally:
        socket.close()
    entry: dict[str, Any] = standin.get(f"/history/{prompt_id}").json()[prompt_id]
    return entry


def messages_until_end(socket: Any, prompt_id: str) -> list[dict[str, Any]]:
    """Read the socket up to the message that says that the prompt has ended."""
    messages = []
    while True:
        message = json.loads(socket.recv())
        messages.append(message)
        if message == {"type": "executing", "data": {"node": None, "prompt_id": prompt_id}}:
            return messages


def message_of(socket: Any, kind: str) -> dict[str, Any]:
    """Read the socket up to the first message of a kind; returns its data."""
    while True:
        message = json.loads(socket.recv())
        if message["type"] == kind:
            data: dict[str, Any] = message["data"]
            return data


def files(entry: dict[str, Any], node_id: str = "9") -> list[dict[str, str]]:
    assert entry["status"]["status_str"] == "success", entry["status"]
    found: list[dict[str, str]] = entry["outputs"][node_id]["images"]
    return found


def viewed(standin: Standin, file: dict[str, str]) -> bytes:
    answer = standin.get("/view", params=file)
    assert answer.status_code == 200
    return answer.content


def pictures(standin: Standin, graph: Graph, node_id: str = "9") -> list[Image.Image]:
    found = files(finished(standin, graph), node_id)
    return [Image.open(io.BytesIO(viewed(standin, file))) for file in found]


def uploaded(standin: Standin, picture: Image.Image, name: str) -> dict[str, str]:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    answer = standin.post("/upload/image", files={"image": (name, buffer.getvalue())}, data={"overwrite": "true"})
    stored: dict[str, str] = answer.json()
    return stored
