"""The adapter to RunPod's SDK, and what only the RunPod worker needs. Imported by `python -m handler` alone."""

from handler.runpod import adapter

__all__ = [
    "adapter",
]
