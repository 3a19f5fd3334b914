"""The manifest: packages, custom nodes and models to install. `python -m handler.manifest` checks one; a start applies it."""

from handler.manifest.install import apply_after_start, apply_before_start
from handler.manifest.schema import load_manifest

__all__ = [
    "apply_after_start",
    "apply_before_start",
    "load_manifest",
]
