"""ComfyUI's websocket. Its messages say when to look at the history; the history alone says how a prompt ended."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

import websocket

from handler.errors import ComfyCrashed, ComfyError, PromptInterrupted

logger = logging.getLogger(__name__)

Message = Mapping[str, Any]
"""One of ComfyUI's websocket messages: {"type", "data"}."""

_CONNECT_TIMEOUT_S = 5
# How often a lost or refused websocket is tried again, and with it the history; a look must not wait long for the socket.
_RECONNECT_INTERVAL_S = 0.25
_RECONNECT_TIMEOUT_S = 1


class PromptListener:
    """One prompt's messages over a websocket of its own.

    A lost socket is replaced under a new client id: after the older of two sockets under one id closes, ComfyUI sends nothing to
    the newer. ComfyUI sends the prompt's messages to the first id only, and to later ones just the changes of its queue.
    `broken` says that a connection to ComfyUI has failed, so that a restarted ComfyUI may answer now.
    """

    def __init__(self, url: str, prompt_id: str, on_message: Callable[[Message], None]) -> None:
        self.client_id = uuid4().hex
        self.broken = False
        self.node_started: dict[str, int] = {}
        self.node_ended: dict[str, int] = {}
        self._url = url.replace("http", "ws", 1)
        self._prompt_id = prompt_id
        self._on_message = on_message
        self._node: str | None = None
        self._finished = False
        self._socket: websocket.WebSocket | None = None
        self._connect(self.client_id, _CONNECT_TIMEOUT_S)

    def wait(self, timeout_s: float) -> bool:
        """Read messages until the prompt's end is announced (True), or until it is time to look at the history (False)."""
        end = time.monotonic() + timeout_s
        while not self._finished and (left := end - time.monotonic()) > 0:
            if self._socket is None:
                time.sleep(min(left, _RECONNECT_INTERVAL_S))
                self._connect(uuid4().hex, _RECONNECT_TIMEOUT_S)
                return False
            message = self._receive(self._socket, left)
            if message and self._handle(message) and self.broken:
                return False
        return self._finished

    def why_missing(self) -> ComfyError:
        """Why a prompt is neither in the queue nor in the history."""
        if self.broken:
            return ComfyCrashed("ComfyUI restarted while the prompt was in it, and does not know it any more.")
        return PromptInterrupted("The prompt was removed from ComfyUI's queue.")

    def close(self) -> None:
        if self._socket is not None:
            # Not its close(), which waits for the answer.
            with suppress(websocket.WebSocketException, OSError):
                self._socket.send_close()
            self._socket.shutdown()
            self._socket = None

    def _connect(self, client_id: str, timeout_s: float) -> None:
        try:
            self._socket = websocket.create_connection(
                f"{self._url}/ws?clientId={client_id}",
                timeout=timeout_s,
                suppress_origin=True,  # ComfyUI refuses an Origin of another host than its own
                http_no_proxy=["*"],
                skip_utf8_validation=True,  # done in pure Python, byte by byte, by this library
            )
        except (websocket.WebSocketException, OSError) as exc:
            self.broken = True
            logger.debug("prompt %s: no websocket (%s); its history is polled", self._prompt_id, type(exc).__name__)

    def _receive(self, socket: websocket.WebSocket, timeout_s: float) -> Message | None:
        """The next message about a prompt or the queue; None for anything else, and when nothing came in time."""
        socket.settimeout(timeout_s)
        try:
            text = socket.recv()
        except websocket.WebSocketTimeoutException:
            return None
        except (websocket.WebSocketException, OSError):
            logger.info("prompt %s: the websocket to ComfyUI was lost", self._prompt_id)
            self.close()
            self.broken = True
            return None
        except ValueError:  # a text that is not UTF-8
            return None
        try:
            message = json.loads(text) if isinstance(text, str) and text else None  # binary: a preview picture
        except (ValueError, RecursionError):
            return None
        valid = isinstance(message, dict) and isinstance(message.get("data"), dict)
        return message if valid else None

    def _handle(self, message: Message) -> bool:
        """Take in a message about our prompt or the queue, and pass it on. True for a change of the queue."""
        kind, data = message.get("type"), message["data"]
        if kind == "status":
            self._on_message(message)
            return True
        if data.get("prompt_id") != self._prompt_id:
            return False
        node = data.get("node")
        if kind == "executing" and (node is None or isinstance(node, str)):
            self._note_node(node)
        self._on_message(message)
        return False

    def _note_node(self, node: str | None) -> None:
        now = time.time_ns() // 1_000_000
        if self._node is not None:
            self.node_ended[self._node] = now
        if node is not None:
            self.node_started.setdefault(node, now)
        self._node = node
        self._finished = node is None
