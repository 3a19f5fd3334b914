"""Nodes that load models and encode prompts. Models and conditionings are only descriptions."""

# ruff: noqa: ARG002, RUF012 - a node declares its inputs as class attributes, and may ignore some

import dataclasses

from emulator.comfyui import Folders
from emulator.comfyui.nodes.node import NEW_STYLE, Choices, Node


@dataclasses.dataclass(frozen=True)
class Model:
    """A checkpoint, or a part of one."""

    checkpoint: str
    loras: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Conditioning:
    text: str
    guidance: float | None = None


def models(folder: str) -> Choices:
    return lambda folders: folders.models(folder)


def vae_names(folders: Folders) -> list[str]:
    return [*folders.models("vae"), "pixel_space"]


class CheckpointLoaderSimple(Node):
    function = "load_checkpoint"
    required = {"ckpt_name": (models("checkpoints"), {"tooltip": "The name of the checkpoint (model) to load."})}
    outputs = ("MODEL", "CLIP", "VAE")
    output_tooltips = (
        "The model used for denoising latents.",
        "The CLIP model used for encoding text prompts.",
        "The VAE model used for encoding and decoding images to and from latent space.",
    )
    category = "loaders"
    display_name = "Load Checkpoint"
    description = "Loads a diffusion model checkpoint, diffusion models are used to denoise latents."

    def load_checkpoint(self, ckpt_name: str) -> tuple[Model, Model, Model]:
        model = Model(ckpt_name)
        return model, model, model


class VAELoader(Node):
    function = "load_vae"
    required = {"vae_name": (vae_names,)}
    outputs = ("VAE",)
    category = "loaders"
    display_name = "Load VAE"

    def load_vae(self, vae_name: str) -> tuple[Model]:
        return (Model(vae_name),)


class LoraLoader(Node):
    function = "load_lora"
    required = {
        "model": ("MODEL", {"tooltip": "The diffusion model the LoRA will be applied to."}),
        "clip": ("CLIP", {"tooltip": "The CLIP model the LoRA will be applied to."}),
        "lora_name": (models("loras"), {"tooltip": "The name of the LoRA."}),
        "strength_model": (
            "FLOAT",
            {
                "default": 1.0,
                "min": -100.0,
                "max": 100.0,
                "step": 0.01,
                "tooltip": "How strongly to modify the diffusion model. This value can be negative.",
            },
        ),
        "strength_clip": (
            "FLOAT",
            {
                "default": 1.0,
                "min": -100.0,
                "max": 100.0,
                "step": 0.01,
                "tooltip": "How strongly to modify the CLIP model. This value can be negative.",
            },
        ),
    }
    outputs = ("MODEL", "CLIP")
    output_tooltips = ("The modified diffusion model.", "The modified CLIP model.")
    category = "loaders"
    display_name = "Load LoRA"
    description = (
        "LoRAs are used to modify diffusion and CLIP models, altering the way in which latents are denoised such as "
        "applying styles. Multiple LoRA nodes can be linked together."
    )

    def load_lora(
        self, model: Model, clip: Model, lora_name: str, strength_model: float, strength_clip: float
    ) -> tuple[Model, Model]:
        loras = (*model.loras, (lora_name, strength_model))
        return dataclasses.replace(model, loras=loras), clip


class CLIPTextEncode(Node):
    function = "encode"
    required = {
        "text": ("STRING", {"multiline": True, "dynamicPrompts": True, "tooltip": "The text to be encoded."}),
        "clip": ("CLIP", {"tooltip": "The CLIP model used for encoding the text."}),
    }
    outputs = ("CONDITIONING",)
    output_tooltips = ("A conditioning containing the embedded text used to guide the diffusion model.",)
    category = "conditioning"
    display_name = "CLIP Text Encode (Prompt)"
    description = (
        "Encodes a text prompt using a CLIP model into an embedding that can be used to guide the diffusion model "
        "towards generating specific images."
    )

    def encode(self, clip: Model, text: str) -> tuple[Conditioning]:
        return (Conditioning(text),)


class FluxGuidance(Node):
    function = "execute"
    required = {
        "conditioning": ("CONDITIONING", {}),
        "guidance": ("FLOAT", {"default": 3.5, "min": 0.0, "max": 100.0, "step": 0.1}),
    }
    outputs = ("CONDITIONING",)
    output_tooltips = (None,)
    category = "advanced/conditioning/flux"
    display_name = None
    python_module = "comfy_extras.nodes_flux"
    extra_info = NEW_STYLE

    def execute(self, conditioning: Conditioning, guidance: float) -> tuple[Conditioning]:
        return (dataclasses.replace(conditioning, guidance=guidance),)
