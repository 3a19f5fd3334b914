"""A stand-in for ComfyUI: its protocol, its queue and its files, with drawn pictures in place of a model."""
