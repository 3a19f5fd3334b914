"""The ComfyUI that tests run their prompts in, as it is seen from outside."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from handler import Settings


@dataclass(frozen=True)
class Comfyui:
    """A running ComfyUI: the stand-in, or the one that COMFYUI_URL names, with its folders in COMFY_HOME."""

    url: str
    home: Path

    def settings(self, cache: Path, **environ: str) -> Settings:
        """Of a service in front of it, to which private addresses are fine."""
        own = {"COMFYUI_URL": self.url, "COMFY_HOME": str(self.home), "CACHE_DIR": str(cache)}
        return Settings.from_environ({**own, "ALLOW_PRIVATE_URLS": "true", **environ})

    def files(self) -> set[str]:
        """Every file and folder in input/ and output/."""
        found = (path for folder in ("input", "output") for path in (self.home / folder).rglob("*"))
        return {path.relative_to(self.home).as_posix() for path in found}

    def history(self) -> dict[str, Any]:
        answer: dict[str, Any] = requests.get(f"{self.url}/history", timeout=30).json()
        return answer

    def queue_remaining(self) -> int:
        """How many prompts wait or run."""
        return int(requests.get(f"{self.url}/prompt", timeout=30).json()["exec_info"]["queue_remaining"])
