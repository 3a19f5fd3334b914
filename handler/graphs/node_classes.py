"""What a graph needs to know of its node classes: /object_info in short."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class NodeClass:
    """What a graph needs to know of a node class: /object_info in short.

    `uploads` maps the inputs that take an uploadable medium to it: "image", "video" or "audio". `models` maps the lists of
    model files to the model folder that they show.
    """

    output: bool = False
    uploads: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)


NodeClasses = Mapping[str, NodeClass | None]
"""Class name to what is known of it; None for a class that ComfyUI does not have."""


# /object_info does not say which folder a list shows. These names mean one folder in every class, ComfyUI's own and custom.
_MODEL_FOLDERS = {
    "ckpt_name": "checkpoints",
    "lora_name": "loras",
    "vae_name": "vae",
    "control_net_name": "controlnet",
    "unet_name": "diffusion_models",
    **dict.fromkeys(("clip_name", "clip_name1", "clip_name2", "clip_name3", "clip_name4"), "text_encoders"),
    "style_model_name": "style_models",
    "gligen_name": "gligen",
    "hypernetwork_name": "hypernetworks",
    "photomaker_model_name": "photomaker",
    "audio_encoder_name": "audio_encoders",
}
# Where a class of ComfyUI's own means something else, or has a name that says little.
_OWN_MODEL_FOLDERS = {
    ("CLIPVisionLoader", "clip_name"): "clip_vision",
    ("UpscaleModelLoader", "model_name"): "upscale_models",
    ("ModelPatchLoader", "name"): "model_patches",
    ("CheckpointLoader", "config_name"): "configs",
    ("TrainLoraNode", "existing_lora"): "loras",
}

# VHS (ComfyUI-VideoHelperSuite) declares its uploads in ways of its own, so they are known by name.
_VHS_UPLOADS = {
    "VHS_LoadVideo": {"video": "video"},
    "VHS_LoadVideoPath": {"video": "video"},
    "VHS_LoadVideoFFmpeg": {"video": "video"},
    "VHS_LoadAudioUpload": {"audio": "audio"},
    "VHS_LoadImages": {"directory": "images"},
    "VHS_LoadImagesPath": {"directory": "images"},
}
_UPLOAD_FLAGS = {"image_upload": "image", "video_upload": "video", "audio_upload": "audio"}


def node_class(name: str, info: Mapping[str, Any]) -> NodeClass:
    """One entry of ComfyUI's /object_info in short."""
    uploads = dict(_VHS_UPLOADS.get(name, {}))
    models: dict[str, str] = {}
    for group in ("required", "optional"):
        for input_name, declared in ((info.get("input") or {}).get(group) or {}).items():
            options = declared[1] if len(declared) > 1 and isinstance(declared[1], dict) else {}
            medium = next((medium for flag, medium in _UPLOAD_FLAGS.items() if options.get(flag)), None)
            if medium:
                uploads.setdefault(input_name, medium)
            folder = _OWN_MODEL_FOLDERS.get((name, input_name)) or _MODEL_FOLDERS.get(input_name)
            if folder and declared and (isinstance(declared[0], list) or declared[0] == "COMBO"):
                models[input_name] = folder
    return NodeClass(output=bool(info.get("output_node")), uploads=uploads, models=models)
