"""What a running prompt needs of the websockets."""

from typing import Any, Protocol


class Clients(Protocol):
    """The connected clients. `client_id` and `last_node` tell a client that reconnects what runs for it."""

    client_id: str | None
    last_node: str | None

    def post(self, event: str, data: dict[str, Any], sid: str | None = None) -> None:
        """Send a message to one client id, or to all."""

    def post_bytes(self, frame: bytes, sid: str | None) -> None:
        """Send a binary message to one client id, or to all."""

    def wants_metadata(self, sid: str | None) -> bool:
        """Whether the client understands previews with metadata."""
