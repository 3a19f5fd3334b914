"""Image to image with FLUX.1-schnell."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from handler.choices import Checkpoint, Sampler, Scheduler, random_seed

summary = "Image to Image"
description = "Generate an image from a text prompt and an image with FLUX.1-schnell."


class RequestSchema(BaseModel):
    prompt: str = Field(description="What the image shows.")
    width: int = Field(1024, ge=256, le=2048, description="Width in pixels that the input image is resized to.")
    height: int = Field(1024, ge=256, le=2048, description="Height in pixels that the input image is resized to.")
    seed: int = random_seed(below=10**15)
    steps: int = Field(4, ge=1, le=100, description="Number of sampling steps.")
    cfg_scale: float = Field(
        1, ge=0, le=20, description="Classifier-free guidance scale: higher follows the prompt more closely."
    )
    sampler_name: Sampler = Field("euler", description="Name of the sampler.")
    scheduler: Scheduler = Field("simple", description="Name of the scheduler.")
    denoise: float = Field(0.8, ge=0, le=1, description="Denoising strength: 0 keeps the input image, 1 ignores it.")
    checkpoint: Checkpoint = Field("flux1-schnell-fp8.safetensors", description="Name of the checkpoint.")
    image: str = Field(
        description="The input image: a URL, a data URI, base64, or the name of a file in the input folder."
    )
    interpolation: Literal["nearest"] = Field(
        "nearest", description="How the input image is interpolated when it is resized."
    )
    resize_method: Literal["fill / crop"] = Field(
        "fill / crop", description="How the input image is fitted to the size."
    )
    resize_condition: Literal["always"] = Field("always", description="When the input image is resized.")
    multiple_of: int = Field(8, description="Sides of the resized image become a multiple of this many pixels.")


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
            "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]},
            "class_type": "SaveImage",
            "_meta": {"title": "Save Image"},
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
                "latent_image": ["38", 0],
            },
            "class_type": "KSampler",
            "_meta": {"title": "KSampler"},
        },
        "33": {
            "inputs": {"text": "", "clip": ["30", 1]},
            "class_type": "CLIPTextEncode",
            "_meta": {"title": "CLIP Text Encode (Negative Prompt)"},
        },
        "37": {
            "inputs": {"image": input.image, "upload": "image"},
            "class_type": "LoadImage",
            "_meta": {"title": "Load Image"},
        },
        "38": {
            "inputs": {"pixels": ["40", 0], "vae": ["30", 2]},
            "class_type": "VAEEncode",
            "_meta": {"title": "VAE Encode"},
        },
        "40": {
            "inputs": {
                "width": input.width,
                "height": input.height,
                "interpolation": input.interpolation,
                "method": input.resize_method,
                "condition": input.resize_condition,
                "multiple_of": input.multiple_of,
                "image": ["37", 0],
            },
            "class_type": "ImageResize+",
            "_meta": {"title": "🔧 Image Resize"},
        },
    }
