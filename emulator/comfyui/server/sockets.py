"""The websocket hub: who is connected under which id, and who gets which message."""

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

FEATURES = {"supports_preview_metadata": True, "max_upload_size": 100 * 1024 * 1024}
# a client that does not read would otherwise hold up everybody's messages for ever
SEND_TIMEOUT = 10.0

Message = str | bytes


class Hub:
    """Sends in the order in which it was asked to, from any thread."""

    def __init__(self, queue_info: Callable[[], dict[str, Any]]) -> None:
        self.queue_info = queue_info
        self.client_id: str | None = None
        self.last_node: str | None = None
        # faults
        self.drop_at = ""
        self.refuses = False
        self._sockets: dict[str, WebSocket] = {}
        self._open: set[WebSocket] = set()
        self._features: dict[str, dict[str, Any]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outbox: asyncio.Queue[tuple[Message, str | None]] = asyncio.Queue()

    async def publish(self) -> None:
        """Send what `post` was given, until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            message, sid = await self._outbox.get()
            await self._deliver(message, sid)

    def post(self, event: str, data: dict[str, Any], sid: str | None = None) -> None:
        """Queue a message for one client id, or for everybody; may be called from any thread."""
        self.reached(event)
        self._post(_text(event, data), sid)

    def post_bytes(self, frame: bytes, sid: str | None) -> None:
        self._post(frame, sid)

    def post_raw(self, message: Message) -> None:
        """Any message, to everybody."""
        self._post(message, None)

    def reached(self, moment: str) -> None:
        """Drop all connections if that is to happen at this moment."""
        if moment == self.drop_at and self._loop is not None:
            self.drop_at = ""
            self._loop.call_soon_threadsafe(self.drop_all)

    def wants_metadata(self, sid: str | None) -> bool:
        """Did the client announce that it understands pictures with metadata?"""
        return sid is not None and self._features.get(sid, {}).get("supports_preview_metadata") is True

    async def serve(self, websocket: WebSocket) -> None:
        """Keep one client until it leaves."""
        if self.refuses:
            await websocket.close()
            return
        await websocket.accept()
        sid = websocket.query_params.get("clientId") or uuid.uuid4().hex
        self._sockets[sid] = websocket
        self._features[sid] = {}
        self._open.add(websocket)
        try:
            await self._greet(sid)
            await self._listen(websocket, sid)
        except (WebSocketDisconnect, RuntimeError):
            pass  # gone in the middle of a greeting, or of being dropped
        finally:
            self._open.discard(websocket)
            # As in ComfyUI this also unregisters a newer socket under the same id, which then hears nothing more.
            self._sockets.pop(sid, None)
            self._features.pop(sid, None)

    def drop_all(self) -> int:
        """Cut every connection at the transport, without a close frame; returns how many there were."""
        dropped = list(self._open)
        for websocket in dropped:
            websocket.scope["extensions"]["transport"].abort()
        return len(dropped)

    async def _greet(self, sid: str) -> None:
        await self._deliver(_text("status", {"status": self.queue_info(), "sid": sid}), sid)
        if self.client_id == sid and self.last_node is not None:
            await self._deliver(_text("executing", {"node": self.last_node}), sid)

    async def _listen(self, websocket: WebSocket, sid: str) -> None:
        first = True
        while True:
            received = await websocket.receive()
            if received["type"] == "websocket.disconnect":
                return
            message = _parsed(received.get("text"))
            if message is None:
                continue
            if first and message.get("type") == "feature_flags":
                announced = message.get("data")
                self._features[sid] = announced if isinstance(announced, dict) else {}
                await self._deliver(_text("feature_flags", FEATURES), sid)
            first = False

    def _post(self, message: Message, sid: str | None) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._outbox.put_nowait, (message, sid))

    async def _deliver(self, message: Message, sid: str | None) -> None:
        receivers = list(self._sockets) if sid is None else [sid]
        for websocket in [self._sockets[receiver] for receiver in receivers if receiver in self._sockets]:
            await _send(websocket, message)


def _text(event: str, data: dict[str, Any]) -> str:
    return json.dumps({"type": event, "data": data})


def _parsed(text: str | None) -> dict[str, Any] | None:
    """The client's message, or None for what is no JSON object."""
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
