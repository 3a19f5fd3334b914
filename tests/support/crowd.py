"""Many requests at once from one thread: each on a connection of its own, sent one after the other."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Answer:
    status: int
    body: dict[str, Any]


def crowd(url: str, bodies: Sequence[dict[str, Any]]) -> list[Answer]:
    """The answers of POST /prompt to all of them, in order."""
    return asyncio.run(_crowd(url, bodies))


async def _crowd(url: str, bodies: Sequence[dict[str, Any]]) -> list[Answer]:
    address = urlsplit(url)
    connections = [await asyncio.open_connection(address.hostname, address.port, limit=1 << 26) for _ in bodies]
    for (_, writer), body in zip(connections, bodies, strict=True):
        content = json.dumps(body).encode()
        head = f"POST /prompt HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
        writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + content)
        await asyncio.sleep(0)
    return await asyncio.gather(*(_answer(*connection) for connection in connections))


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Answer:
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return Answer(int(head.split()[1]), json.loads(body))
