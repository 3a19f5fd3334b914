"""Text to image with Dreamshaper 8."""

from typing import Any

from pydantic import BaseModel, Field

from handler.choices import Checkpoint, Sampler, Scheduler, random_seed

summary = "Text to Image"
description = "Generate an image from a text prompt with Dreamshaper 8, a Stable Diffusion 1.5 model."


class RequestSchema(BaseModel):
    prompt: str = Field(description="What the image shows.")
    negative_prompt: str = Field("text, watermark", description="What the image must not show.")
    width: int = Field(512, ge=256, le=2048, description="Width of the image in pixels.")
    height: int = Field(512, ge=256, le=2048, description="Height of the image in pixels.")
    seed: int = random_seed(below=10**11)
    steps: int = Field(20, ge=1, le=100, description="Number of sampling steps.")
    cfg_scale: float = Field(
        8, ge=0, le=20, description="Classifier-free guidance scale: higher follows the prompt more closely."
    )
    sampler_name: Sampler = Field("euler", description="Name of the sampler.")
    scheduler: Scheduler = Field("normal", description="Name of the scheduler.")
    denoise: float = Field(1, ge=0, le=1, description="Denoising strength.")
    checkpoint: Checkpoint = Field("dreamshaper_8.safetensors", description="Name of the checkpoint.")


def generate_workflow(input: RequestSchema) -> dict[str, Any]:
    return {
        "3": {
            "inputs": {
                "seed": input.seed,
                "steps": input.steps,
                "cfg": input.cfg_scale,
                "sampler_name": input.sampler_name,
                "scheduler": input.scheduler,
                "denoise": input.denoise,
                "model": ["4", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
            "class_type": "KSampler",
            "_meta": {"title": "KSampler"},
        },
        "4": {
            "inputs": {"ckpt_name": input.checkpoint},
            "class_type": "CheckpointLoaderSimple",
            "_meta": {"title": "Load Checkpoint"},
        },
        "5": {
            "inputs": {"width": input.width, "height": input.height, "batch_size": 1},
            "class_type": "EmptyLatentImage",
            "_meta": {"title": "Empty Latent Image"},
        },
        "6": {
            "inputs": {"text": input.prompt, "clip": ["4", 1]},
            "class_type": "CLIPTextEncode",
            "_meta": {"title": "CLIP Text Encode (Prompt)"},
        },
        "7": {
            "inputs": {"text": input.negative_prompt, "clip": ["4", 1]},
            "class_type": "CLIPTextEncode",
            "_meta": {"title": "CLIP Text Encode (Prompt)"},
        },
        "8": {
            "inputs": {"samples": ["3", 0], "vae": ["4", 2]},
            "class_type": "VAEDecode",
            "_meta": {"title": "VAE Decode"},
        },
        "9": {
            "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]},
            "class_type": "SaveImage",
            "_meta": {"title": "Save Image"},
        },
    }
