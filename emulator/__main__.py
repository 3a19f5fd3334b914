"""The HTTP API as a process: `python -m emulator`. The only module of it that imports uvicorn."""

import logging
import signal
import socket
import sys

import uvicorn

from emulator.app import create_app
from handler import Settings, logs
from handler.settings import BadSettings
from handler.workflows import BadWorkflow

logger = logging.getLogger(__name__)

_BACKLOG = 2048


def main() -> int:
    """Serve until SIGTERM or SIGINT, or until ComfyUI is given up. The exit code."""
    try:
        settings = Settings.from_environ()
        logs.configure(settings.log_level)
        listener = _listener(settings.host, settings.port)
        url = f"http://localhost:{listener.getsockname()[1]}"
        app = create_app(settings, on_warm=lambda: _welcome(url), on_end=lambda: _stop(server))
    except (BadSettings, BadWorkflow) as exc:
        print(f"cannot start: {exc}", file=sys.stderr)
        return 1
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=settings.log_level in ("trace", "debug"),
        timeout_graceful_shutdown=int(settings.shutdown_grace_s),
    )
    server = uvicorn.Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal that ended it once more; a server that was told to end has done well.
        signal.signal(number, lambda *_: None)
    with listener:
        server.run(sockets=[listener])
    return int(app.state.door.exit_code)


def _listener(host: str, port: int) -> socket.socket:
    """The listening socket; "::" answers IPv4 as well, and where there is no IPv6 it means IPv4."""
    family = socket.AF_INET6 if ":" in host and socket.has_ipv6 else socket.AF_INET
    dual = host == "::" and family is socket.AF_INET6 and socket.has_dualstack_ipv6()
    address = "0.0.0.0" if host == "::" and not dual else host
    try:
        return socket.create_server(
            (address, port),
            family=family if dual or host != "::" else socket.AF_INET,
            backlog=_BACKLOG,
            dualstack_ipv6=dual,
        )
    except OSError as exc:
        raise BadSettings(f"HOST={host!r}, PORT={port}: {exc.strerror}") from exc


def _stop(server: uvicorn.Server) -> None:
    server.should_exit = True


def _welcome(url: str) -> None:
    logger.info("ready at %s, documentation at %s/docs; try", url, url)
    logger.info(
        "curl -s %s/workflow/flux/txt2img -H 'Content-Type: application/json' "
        """-d '{"input":{"prompt":"8-bit video game art of a salad"}}' """
        "| jq -r '.images[0]' | base64 -d > image.png",
        url,
    )


if __name__ == "__main__":
    sys.exit(main())
