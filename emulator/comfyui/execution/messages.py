"""The messages of a running prompt: to its client, and for the history."""

import json
import struct
import time
from typing import Any

from emulator.comfyui.execution.clients import Clients

PREVIEW_IMAGE, PREVIEW_IMAGE_WITH_METADATA = 1, 4
IMAGE_TYPES = {"JPEG": (1, "image/jpeg"), "PNG": (2, "image/png")}


class Messages:
    """Sends the messages of one prompt. `recorded` are those that the history keeps."""

    def __init__(self, clients: Clients, prompt_id: str, client_id: str | None) -> None:
        self.clients = clients
        self.prompt_id = prompt_id
        self.client_id = client_id
        self.recorded: list[tuple[str, dict[str, Any]]] = []
        self._progress: dict[str, dict[str, Any]] = {}

    def record(self, event: str, facts: dict[str, Any], *, broadcast: bool = False) -> None:
        """Send a message, and keep it for the history."""
        data = {**facts, "timestamp": int(time.time() * 1000)}
        self.recorded.append((event, data))
        self.send(event, data, to_all_without_client=broadcast)

    def send(self, event: str, data: dict[str, Any], *, to_all_without_client: bool = False) -> None:
        """Send to the prompt's client. Without a client the event goes to all, or to nobody."""
        if self.client_id is not None or to_all_without_client:
            self.clients.post(event, data, self.client_id)

    def start_node(self, node_id: str) -> None:
        self._set_progress(node_id, 0.0, 1.0, "running")
        self._send_progress()

    def finish_node(self, node_id: str) -> None:
        total = self._progress[node_id]["max"] if node_id in self._progress else 1
        self._set_progress(node_id, total, total, "finished")
        self._send_progress()

    def step(self, node_id: str, value: int, total: int, image: tuple[str, bytes] | None) -> None:
        """Send a node's progress. `image` is a preview: its format, JPEG or PNG, and its content."""
        self._set_progress(node_id, value, total, "running")
        with_metadata = image is not None and self.clients.wants_metadata(self.client_id)
        self._send_progress()
        if image is not None and with_metadata:
            self.clients.post_bytes(self._frame_with_metadata(node_id, *image), self.client_id)
        step = {"value": value, "max": total, "prompt_id": self.prompt_id, "node": node_id}
        self.send("progress", step, to_all_without_client=True)
        if image is not None and not with_metadata:
            frame = struct.pack(">II", PREVIEW_IMAGE, IMAGE_TYPES[image[0]][0]) + image[1]
            self.clients.post_bytes(frame, self.client_id)

    def _set_progress(self, node_id: str, value: float, total: float, state: str) -> None:
        self._progress[node_id] = {"value": value, "max": total, "state": state, **self._ids(node_id)}

    def _send_progress(self) -> None:
        data = {"prompt_id": self.prompt_id, "nodes": self._progress}
        self.send("progress_state", data, to_all_without_client=True)

    def _frame_with_metadata(self, node_id: str, image_format: str, image: bytes) -> bytes:
        facts = {**self._ids(node_id), "image_type": IMAGE_TYPES[image_format][1]}
        metadata = json.dumps(facts).encode()
        return struct.pack(">II", PREVIEW_IMAGE_WITH_METADATA, len(metadata)) + metadata + image

    def _ids(self, node_id: str) -> dict[str, Any]:
        return {
            "node_id": node_id,
            "prompt_id": self.prompt_id,
            "display_node_id": node_id,
            "parent_node_id": None,
            "real_node_id": node_id,
        }
