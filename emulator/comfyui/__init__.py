"""A stand-in for ComfyUI: its protocol, its queue and its files, with drawn pictures in place of a model."""

from emulator.comfyui.folders import Folders, resolve_inside, split_annotation

__all__ = [
    "Folders",
    "resolve_inside",
    "split_annotation",
]
