"""Text to image with FLUX.1-schnell."""

from typing import Any

from pydantic import BaseModel, Field

from handler.choices import Checkpoint, Sampler, Scheduler, random_seed

summary = "Text to Image"
description = "Generate an image from a text prompt with FLUX.1-schnell."


class RequestSchema(BaseModel):
    prompt: str = Field(description="What the image shows.")
    width: int = Field(1024, ge=256, le=2048, description="Width of the image in pixels.")
    height: int = Field(1024, ge=256, le=2048, description="Height of the image in pixels.")
    seed: int = random_seed(below=10**15)
    steps: int = Field(4, ge=1, le=100, description="Number of sampling steps.")
    cfg_scale: float = Field(
        1, ge=0, le=20, description="Classifier-free guidance scale: higher follows the prompt more closely."
    )
    sampler_name: Sampler = Field("euler", description="Name of the sampler.")
    scheduler: Scheduler = Field("simple", description="Name of the scheduler.")
    denoise: float = Field(1, ge=0, le=1, description="Denoising strength.")
    checkpoint: Checkpoint = Field("flux1-schnell-fp8.safetensors", description="Name of the checkpoint.")


def generate_workflow(input: RequestSchema) -> dict[str, Any]:
    return {
        "6": {
            "inputs": {"text": input.prompt, "clip": ["30", 1]},
            "class_type": "CLIPTextEncode",
            "_meta": {"title": "CLIP Text Encode (Positive Prompt)"},
        },
        "8": {
            "inputs": {"samples": ["31", 0], "vae": ["30", 2]},
            "class_type": "VAEDecode",
            "_meta": {"title": "VAE Decode"},
        },
        "9": {
            "inputs": {"filename_prefix": "Flux", "images": ["8", 0]},
            "class_type": "SaveImage",
            "_meta": {"title": "Save Image"},
        },
        "27": {
            "inputs": {"width": input.width, "height": input.height, "batch_size": 1},
            "class_type": "EmptySD3LatentImage",
            "_meta": {"title": "EmptySD3LatentImage"},
        },
        "30": {
            "inputs": {"ckpt_name": input.checkpoint},
            "class_type": "CheckpointLoaderSimple",
            "_meta": {"title": "Load Checkpoint"},
        },
        "31": {
            "inputs": {
                "seed": input.seed,
                "steps": input.steps,
                "cfg": input.cfg_scale,
                "sampler_name": input.sampler_name,
                "scheduler": input.scheduler,
                "denoise": input.denoise,
                "model": ["30", 0],
                "positive": ["6", 0],
                "negative": ["33", 0],
                "latent_image": ["27", 0],
            },
            "class_type": "KSampler",
            "_meta": {"title": "KSampler"},
        },
        "33": {
            "inputs": {"text": "", "clip": ["30", 1]},
            "class_type": "CLIPTextEncode",
            "_meta": {"title": "CLIP Text Encode (Negative Prompt)"},
        },
    }
