"""Image to image with Dreamshaper 8."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from handler.choices import Checkpoint, Sampler, Scheduler, random_seed

summary = "Image to Image"
description = "Generate an image from a text prompt and an image with Dreamshaper 8, a Stable Diffusion 1.5 model."


class RequestSchema(BaseModel):
    prompt: str = Field(description="What the image shows.")
    negative_prompt: str = Field("text, watermark", description="What the image must not show.")
    seed: int = random_seed(below=10**15)
    steps: int = Field(15, ge=1, le=100, description="Number of sampling steps.")
    cfg_scale: float = Field(
        8, ge=0, le=20, description="Classifier-free guidance scale: higher follows the prompt more closely."
    )
    sampler_name: Sampler = Field("euler", description="Name of the sampler.")
    scheduler: Scheduler = Field("normal", description="Name of the scheduler.")
    denoise: float = Field(0.8, ge=0, le=1, description="Denoising strength: 0 keeps the input image, 1 ignores it.")
    checkpoint: Checkpoint = Field("dreamshaper_8.safetensors", description="Name of the checkpoint.")
    image: str = Field(
        description="The input image: a URL, a data URI, base64, or the name of a file in the input folder."
    )
    width: int = Field(512, ge=64, le=2048, description="Width in pixels that the input image is resized to.")
    height: int = Field(512, ge=64, le=2048, description="Height in pixels that the input image is resized to.")
    interpolation: Literal["nearest"] = Field(
        "nearest", description="How the input image is interpolated when it is resized."
    )
    resize_method: Literal["keep proportion"] = Field(
        "keep proportion", description="How the input image is fitted to the size."
    )
    resize_condition: Literal["always"] = Field("always", description="When the input image is resized.")
    multiple_of: int = Field(0, ge=0, description="Sides of the resized image become a multiple of this many pixels.")


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
                "latent_image": ["12", 0],
            },
            "class_type": "KSampler",
            "_meta": {"title": "KSampler"},
        },
        "4": {
            "inputs": {"ckpt_name": input.checkpoint},
            "class_type": "CheckpointLoaderSimple",
            "_meta": {"title": "Load Checkpoint"},
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
        "10": {
            "inputs": {"image": input.image, "upload": "image"},
            "class_type": "LoadImage",
            "_meta": {"title": "Load Image"},
        },
        "11": {
            "inputs": {
                "width": input.width,
                "height": input.height,
                "interpolation": input.interpolation,
                "method": input.resize_method,
                "condition": input.resize_condition,
                "multiple_of": input.multiple_of,
                "image": ["10", 0],
            },
            "class_type": "ImageResize+",
            "_meta": {"title": "🔧 Image Resize"},
        },
        "12": {
            "inputs": {"pixels": ["11", 0], "vae": ["4", 2]},
            "class_type": "VAEEncode",
            "_meta": {"title": "VAE Encode"},
        },
    }
