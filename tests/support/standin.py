"""A stand-in ComfyUI for a test: a real process on a free port, with a folder of its own."""

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import requests
import websocket

from tests.support.paths import ROOT

STEP_MS = 6
# besides the placeholders that the stand-in makes itself, what the recorded server had
MODELS = (
    "loras/detail-tweaker.safetensors",
    "loras/sub/pixel-art.safetensors",
    "vae/ae.safetensors",
    "vae/vae-ft-mse-840000-ema-pruned.safetensors",
    "controlnet/control_v11p_sd15_canny.safetensors",
    "embeddings/EasyNegative.safetensors",
)


class Standin:
    def __init__(self, base: Path, *arguments: str) -> None:
        self.base = base
        for model in MODELS:
            file = base / "models" / model
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        command = [sys.executable, "-m", "emulator.comfyui", "--port", "0", "--base-dir", str(base)]
        self.process = subprocess.Popen(
            [*command, "--step-ms", str(STEP_MS), *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        # One that says nothing is ended, so that its test fails and does not wait for ever.
        silent = threading.Timer(60, self.process.kill)
        silent.start()
        self.start_line = self.process.stdout.readline()
        silent.cancel()
        found = re.search(r"http://[\w.]+:\d+", self.start_line)
        assert found, f"no address in {self.start_line!r}"
        self.url = found[0]
        self.http = requests.Session()

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.http.get(self.url + path, timeout=60, **options)

    def post(self, path: str, json: Any = None, **options: Any) -> requests.Response:
        return self.http.post(self.url + path, json=json, timeout=60, **options)

    def socket(self, client_id: str) -> websocket.WebSocket:
        address = self.url.replace("http", "ws", 1)
        return websocket.create_connection(f"{address}/ws?clientId={client_id}", timeout=60)

    def forget(self) -> None:
        """Empty the queue, the history, the node cache and the folders of files."""
        self.post("/queue", {"clear": True})
        self.post("/interrupt")
        self.post("/history", {"clear": True})
        self.post("/free", {"free_memory": True})
        for folder in ("input", "output"):
            for file in (self.base / folder).rglob("*.*"):
                file.unlink()

    def stop(self) -> int:
        """End the process as a container does; returns its exit status."""
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=30)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status
