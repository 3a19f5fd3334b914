"""What we use of ComfyUI's /object_info."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class NodeClass:
    """A node class.

    `uploads` maps inputs that take an uploaded file to its medium: "image", "video", "audio", or "images" for a folder.
    `models` maps inputs with a list of model files to their model folder.
    """

    output: bool = False
    uploads: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)


NodeClasses = Mapping[str, NodeClass | None]
"""Class name to node class; None if ComfyUI does not have it."""


# /object_info does not tell the folder of a list. These names have the same folder in all classes, custom nodes included.
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
# Inputs of ComfyUI's own classes with another folder, or with an ambiguous name.
_OWN_MODEL_FOLDERS = {
    ("CLIPVisionLoader", "clip_name"): "clip_vision",
    ("UpscaleModelLoader", "model_name"): "upscale_models",
    ("ModelPatchLoader", "name"): "model_patches",
    ("CheckpointLoader", "config_name"): "configs",
    ("TrainLoraNode", "existing_lora"): "loras",
}

# VHS (ComfyUI-VideoHelperSuite) does not declare its uploads in the usual way.
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
    """The node class of an entry of /object_info."""
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
