"""`python -m emulator.comfyui` runs the stand-in. Only this file uses uvicorn and the command line."""

import argparse
import asyncio
import contextlib
import logging
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from emulator.comfyui.server import create_app
from emulator.listener import listen

# ComfyUI closes a socket that sends more than this in one message
MAX_INBOUND = 4 * 1024 * 1024


class Socket(WebSocketsSansIOProtocol):
    """Gives the application its transport, so that a fault can cut the connection."""

    async def run_asgi(self) -> None:
        extensions: dict[str, Any] = self.scope["extensions"] or {}
        extensions["transport"] = self.transport
        await super().run_asgi()


class StandIn(uvicorn.Server):
    """Prints a line once it listens. A signal ends the process at once, as it ends the real one."""

    def __init__(self, config: uvicorn.Config, greeting: str) -> None:
        super().__init__(config)
        self.greeting = greeting

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self.greeting, flush=True)


def main() -> None:
    options = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    # Python's own handler would wait for the main thread, which may be in a long call
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    listener = listen(options.host, options.port)
    port = listener.getsockname()[1]
    base = options.base_dir or Path(tempfile.gettempdir()) / f"comfyui-stand-in-{port}"
    config = uvicorn.Config(
        create_app(base, options.step_ms / 1000, options.extra_model_paths_config),
        ws=Socket,
        ws_max_size=MAX_INBOUND,
        ws_ping_interval=None,
        ws_ping_timeout=None,
        timeout_keep_alive=75,
        log_level="error",
        server_header=False,
    )
    greeting = (
        f"Stand-in ComfyUI (draws pictures, runs no model): to see it go to http://{options.host}:{port} "
        f"- files in {base}"
    )
    asyncio.run(StandIn(config, greeting).serve([listener]))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m emulator.comfyui", description="A stand-in for ComfyUI.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8188, help="0 means any free port")
    parser.add_argument("--base-dir", type=Path, help="default: a temporary folder named after the port")
    parser.add_argument("--step-ms", type=float, default=20, help="time of a sampler step, in ms")
    parser.add_argument(
        "--extra-model-paths-config",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="YAML files that name more model folders",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
