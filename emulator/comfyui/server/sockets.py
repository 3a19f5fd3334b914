"""The websockets: clients by their id, and the messages to them."""

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

FEATURES = {"supports_preview_metadata": True, "max_upload_size": 100 * 1024 * 1024}
# a client that does not read must not block the messages to the others
SEND_TIMEOUT = 10.0

Message = str | bytes


class Hub:
    """Sends messages in the order of the calls, which may come from any thread."""

    def __init__(self, queue_info: Callable[[], dict[str, Any]]) -> None:
        self.queue_info = queue_info
        self.client_id: str | None = None
        self.last_node: str | None = None
        # set by faults
        self.drop_at = ""
        self.refuse = False
        self._sockets: dict[str, WebSocket] = {}
        self._open: set[WebSocket] = set()
        self._features: dict[str, dict[str, Any]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._messages: asyncio.Queue[tuple[Message, str | None]] = asyncio.Queue()

    async def publish(self) -> None:
        """Send the posted messages, until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            message, sid = await self._messages.get()
            await self._deliver(message, sid)

    def post(self, event: str, data: dict[str, Any], sid: str | None = None) -> None:
        """Queue a message for one client id, or for all."""
        self.drop_if_at(event)
        self._post(_encode(event, data), sid)

    def post_bytes(self, frame: bytes, sid: str | None) -> None:
        self._post(frame, sid)

    def post_raw(self, message: Message) -> None:
        """Queue any message for all."""
        self._post(message, None)

    def drop_if_at(self, moment: str) -> None:
        """Drop all connections if `drop_at` is this moment."""
        if moment == self.drop_at and self._loop is not None:
            self.drop_at = ""
            self._loop.call_soon_threadsafe(self.drop_all)

    def wants_metadata(self, sid: str | None) -> bool:
        """Whether the client understands previews with metadata."""
        return sid is not None and self._features.get(sid, {}).get("supports_preview_metadata") is True

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one client until it disconnects."""
        if self.refuse:
            await websocket.close()
            return
        await websocket.accept()
        sid = websocket.query_params.get("clientId") or uuid.uuid4().hex
        self._sockets[sid] = websocket
        self._features[sid] = {}
        self._open.add(websocket)
        try:
            await self._send_status(sid)
            await self._listen(websocket, sid)
        except (WebSocketDisconnect, RuntimeError):
            pass  # the client left, or was dropped
        finally:
            self._open.discard(websocket)
            # As in ComfyUI this also unregisters a newer socket with the same id, which gets no more messages.
            self._sockets.pop(sid, None)
            self._features.pop(sid, None)

    def drop_all(self) -> int:
        """Cut every connection at the transport, without a close frame; returns their number."""
        dropped = list(self._open)
        for websocket in dropped:
            websocket.scope["extensions"]["transport"].abort()
        return len(dropped)

    async def _send_status(self, sid: str) -> None:
        await self._deliver(_encode("status", {"status": self.queue_info(), "sid": sid}), sid)
        if self.client_id == sid and self.last_node is not None:
            await self._deliver(_encode("executing", {"node": self.last_node}), sid)

    async def _listen(self, websocket: WebSocket, sid: str) -> None:
        first = True
        while True:
            received = await websocket.receive()
            if received["type"] == "websocket.disconnect":
                return
            message = _parse(received.get("text"))
            if message is None:
                continue
            if first and message.get("type") == "feature_flags":
                announced = message.get("data")
                self._features[sid] = announced if isinstance(announced, dict) else {}
                await self._deliver(_encode("feature_flags", FEATURES), sid)
            first = False

    def _post(self, message: Message, sid: str | None) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._messages.put_nowait, (message, sid))

    async def _deliver(self, message: Message, sid: str | None) -> None:
        receivers = list(self._sockets) if sid is None else [sid]
        for websocket in [self._sockets[receiver] for receiver in receivers if receiver in self._sockets]:
            await _send(websocket, message)


def _encode(event: str, data: dict[str, Any]) -> str:
    return json.dumps({"type": event, "data": data})


def _parse(text: str | None) -> dict[str, Any] | None:
    """The client's message; None if it is not a JSON object."""
    try:
        message = json.loads(text) if text is not None else None
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


async def _send(websocket: WebSocket, message: Message) -> None:
    if websocket.application_state is not WebSocketState.CONNECTED:
        return
    try:
        async with asyncio.timeout(SEND_TIMEOUT):
            if isinstance(message, str):
                await websocket.send_text(message)
            else:
                await websocket.send_bytes(message)
    except (WebSocketDisconnect, RuntimeError):
        pass  # the client left; its prompt runs on
    except TimeoutError:
        websocket.scope["extensions"]["transport"].abort()
