"""Graphs and pictures for the tests."""

import base64
import io
from typing import Any

from PIL import Image

Graph = dict[str, Any]


def txt2img(prompt: str = "a fox", *, seed: int = 1, size: int = 64, steps: int = 2, batch: int = 1) -> Graph:
    """The FLUX.1-schnell graph, small."""
    return {
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": prompt, "clip": ["30", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["31", 0], "vae": ["30", 2]}},
        "9": {
            "class_type": "SaveImage",
            "inputs": {"filename_prefix": "Flux", "images": ["8", 0]},
            "_meta": {"title": "Save the picture"},
        },
        "27": {"class_type": "EmptySD3LatentImage", "inputs": {"width": size, "height": size, "batch_size": batch}},
        "30": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "flux1-schnell-fp8.safetensors"}},
        "31": {
            "class_type": "KSampler",
            "inputs": {
                "seed": seed,
                "steps": steps,
                "cfg": 1,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1,
                "model": ["30", 0],
                "positive": ["6", 0],
                "negative": ["33", 0],
                "latent_image": ["27", 0],
            },
        },
        "33": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["30", 1]}},
    }


def changed(graph: Graph, node_id: str, **inputs: Any) -> Graph:
    """The graph with some inputs of a node set to other values."""
    node = graph[node_id]
    return {**graph, node_id: {**node, "inputs": {**node["inputs"], **inputs}}}


def without(graph: Graph, *node_ids: str) -> Graph:
    return {node_id: node for node_id, node in graph.items() if node_id not in node_ids}


def empty(width: int = 64, *, color: int = 0, prefix: str = "E") -> Graph:
    """The cheapest graph that saves: a plain picture."""
    size = {"width": width, "height": 64, "batch_size": 1, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": prefix, "images": ["1", 0]}},
    }


def load(image: Any) -> Graph:
    """A graph that saves the picture that it is given."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "L", "images": ["1", 0]}},
    }


def sleep(seconds: float, *, seed: int = 0) -> Graph:
    """A graph that takes its time before it saves."""
    return {
        "1": {"class_type": "EmulatorSleep", "inputs": {"seconds": seconds, "image": ["3", 0]}},
        "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "S", "images": ["1", 0]}},
        "3": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": seed}},
    }


def long(*, seed: int = 0) -> Graph:
    """A graph that runs longer than any test waits: if a test goes on, something has ended it."""
    return sleep(300, seed=seed)


def picture(size: tuple[int, int] = (32, 24), color: str = "red", file_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, file_format)
    return file.getvalue()


def as_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def opened(image: str) -> Image.Image:
    """An entry of an answer's `images` as a picture."""
    found = Image.open(io.BytesIO(base64.b64decode(image)))
    found.load()
    return found
