"""Nodes that create, sample, decode and encode latents. A latent describes what to draw."""

# ruff: noqa: ARG002, RUF012 - a node declares its inputs as class attributes, and may ignore some

import dataclasses
from collections.abc import Sequence

from PIL import Image

from emulator.comfyui.nodes import draw
from emulator.comfyui.nodes.loaders import Conditioning, Model
from emulator.comfyui.nodes.node import NEW_STYLE, Node

SAMPLERS = [
    "euler",
    "euler_cfg_pp",
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "heun",
    "heunpp2",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "dpm_fast",
    "dpm_adaptive",
    "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde",
    "dpmpp_sde_gpu",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun",
    "dpmpp_2m_sde_heun_gpu",
    "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu",
    "ddpm",
    "lcm",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "er_sde",
    "seeds_2",
    "seeds_3",
    "sa_solver",
    "sa_solver_pece",
    "ddim",
    "uni_pc",
    "uni_pc_bh2",
]
SCHEDULERS = [
    "simple",
    "sgm_uniform",
    "karras",
    "exponential",
    "ddim_uniform",
    "beta",
    "normal",
    "linear_quadratic",
    "kl_optimal",
]
GREY = (127, 127, 127)


@dataclasses.dataclass(frozen=True)
class Latent:
    """What VAEDecode draws. `base` are the source images of img2img."""

    width: int
    height: int
    batch: int
    base: tuple[Image.Image, ...] = ()
    sampled: draw.Sampling | None = None
    denoise: float = 1.0


class EmptyLatentImage(Node):
    function = "generate"
    required = {
        "width": (
            "INT",
            {
                "default": 512,
                "min": 16,
                "max": 16384,
                "step": 8,
                "tooltip": "The width of the latent images in pixels.",
            },
        ),
        "height": (
            "INT",
            {
                "default": 512,
                "min": 16,
                "max": 16384,
                "step": 8,
                "tooltip": "The height of the latent images in pixels.",
            },
        ),
        "batch_size": (
            "INT",
            {"default": 1, "min": 1, "max": 4096, "tooltip": "The number of latent images in the batch."},
        ),
    }
    outputs = ("LATENT",)
    output_tooltips = ("The empty latent image batch.",)
    category = "latent"
    display_name = "Empty Latent Image"
    description = "Create a new batch of empty latent images to be denoised via sampling."

    def generate(self, width: int, height: int, batch_size: int = 1) -> tuple[dict[str, Latent]]:
        return (empty_latent(width, height, batch_size),)


class EmptySD3LatentImage(Node):
    function = "execute"
    required = {
        "width": ("INT", {"default": 1024, "min": 16, "max": 16384, "step": 16}),
        "height": ("INT", {"default": 1024, "min": 16, "max": 16384, "step": 16}),
        "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096}),
    }
    outputs = ("LATENT",)
    output_tooltips = (None,)
    category = "latent/sd3"
    display_name = None
    python_module = "comfy_extras.nodes_sd3"
    extra_info = NEW_STYLE

    def execute(self, width: int, height: int, batch_size: int = 1) -> tuple[dict[str, Latent]]:
        return (empty_latent(width, height, batch_size),)


class KSampler(Node):
    function = "sample"
    required = {
        "model": ("MODEL", {"tooltip": "The model used for denoising the input latent."}),
        "seed": (
            "INT",
            {
                "default": 0,
                "min": 0,
                "max": 0xFFFFFFFFFFFFFFFF,
                "control_after_generate": True,
                "tooltip": "The random seed used for creating the noise.",
            },
        ),
        "steps": (
            "INT",
            {"default": 20, "min": 1, "max": 10000, "tooltip": "The number of steps used in the denoising process."},
        ),
        "cfg": (
            "FLOAT",
            {
                "default": 8.0,
                "min": 0.0,
                "max": 100.0,
                "step": 0.1,
                "round": 0.01,
                "tooltip": "The Classifier-Free Guidance scale balances creativity and adherence to the prompt. Higher "
                "values result in images more closely matching the prompt however too high values will negatively "
                "impact quality.",
            },
        ),
        "sampler_name": (
            SAMPLERS,
            {
                "tooltip": "The algorithm used when sampling, this can affect the quality, speed, and style of the "
                "generated output."
            },
        ),
        "scheduler": (
            SCHEDULERS,
            {"tooltip": "The scheduler controls how noise is gradually removed to form the image."},
        ),
        "positive": (
            "CONDITIONING",
            {"tooltip": "The conditioning describing the attributes you want to include in the image."},
        ),
        "negative": (
            "CONDITIONING",
            {"tooltip": "The conditioning describing the attributes you want to exclude from the image."},
        ),
        "latent_image": ("LATENT", {"tooltip": "The latent image to denoise."}),
        "denoise": (
            "FLOAT",
            {
                "default": 1.0,
                "min": 0.0,
                "max": 1.0,
                "step": 0.01,
                "tooltip": "The amount of denoising applied, lower values will maintain the structure of the initial "
                "image allowing for image to image sampling.",
            },
        ),
    }
    outputs = ("LATENT",)
    output_tooltips = ("The denoised latent.",)
    category = "sampling"
    description = "Uses the provided model, positive and negative conditioning to denoise the latent image."

    def sample(
        self,
        model: Model,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Conditioning,
        negative: Conditioning,
        latent_image: dict[str, Latent],
        denoise: float = 1.0,
    ) -> tuple[dict[str, Latent]]:
        latent = latent_image["samples"]
        for step in range(steps):
            self.context.pause(self.context.step_seconds)
            self.context.progress(step + 1, steps)
        sampling = draw.Sampling(
            prompt=positive.text,
            negative=negative.text,
            seed=seed,
            steps=steps,
            settings=f"{model} {positive.guidance} {cfg} {sampler_name} {scheduler}",
        )
        return ({"samples": dataclasses.replace(latent, sampled=sampling, denoise=denoise)},)


class VAEDecode(Node):
    function = "decode"
    required = {
        "samples": ("LATENT", {"tooltip": "The latent to be decoded."}),
        "vae": ("VAE", {"tooltip": "The VAE model used for decoding the latent."}),
    }
    outputs = ("IMAGE",)
    output_tooltips = ("The decoded image.",)
    category = "latent"
    display_name = "VAE Decode"
    description = "Decodes latent images back into pixel space images."

    def decode(self, vae: Model, samples: dict[str, Latent]) -> tuple[tuple[Image.Image, ...]]:
        latent = samples["samples"]
        return (tuple(self._picture(latent, index) for index in range(latent.batch)),)

    def _picture(self, latent: Latent, index: int) -> Image.Image:
        size = (latent.width, latent.height)
        base = latent.base[index] if latent.base else None
        if latent.sampled is None:
            return base or Image.new("RGB", size, GREY)
        return draw.draw_picture(latent.sampled, size, index, base, latent.denoise)


class VAEEncode(Node):
    function = "encode"
    required = {"pixels": ("IMAGE",), "vae": ("VAE",)}
    outputs = ("LATENT",)
    category = "latent"
    display_name = "VAE Encode"

    def encode(self, vae: Model, pixels: Sequence[Image.Image]) -> tuple[dict[str, Latent]]:
        latent = empty_latent(*pixels[0].size, len(pixels))["samples"]
        left, top = (pixels[0].width - latent.width) // 2, (pixels[0].height - latent.height) // 2
        box = (left, top, left + latent.width, top + latent.height)
        base = tuple(picture.convert("RGB").crop(box) for picture in pixels)
        return ({"samples": dataclasses.replace(latent, base=base)},)


def empty_latent(width: int, height: int, batch: int) -> dict[str, Latent]:
    """A latent has 1/8 of the image's resolution, so the size is rounded down to multiples of 8."""
    return {"samples": Latent(max(width // 8, 1) * 8, max(height // 8, 1) * 8, batch)}
