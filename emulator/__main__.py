"""The HTTP API as a process: `python -m emulator`."""

import gc
import logging
import os
import signal
import socket
import sys

import uvicorn

from emulator.app import create_app
from emulator.http import HeaderTimeoutProtocol
from emulator.lifespan import END_S, Lifespan
from emulator.listener import listen
from handler import Settings, logs
from handler.graphs import BadWorkflow
from handler.settings import BadSettings

logger = logging.getLogger(__name__)

# Load balancers keep a connection for 60 s, most of them. One that is closed here first is a 502 there, now and then; uvicorn's
# own 5 s are for clients that come without one. The reference has 72 s (Fastify's).
_KEEP_ALIVE_S = 75


def main() -> int:
    """Serve until SIGTERM or SIGINT, or until ComfyUI is given up. The exit code."""
    try:
        settings = Settings.from_environ()
        logs.configure(settings.log_level)
        app = create_app(settings, on_warm=lambda: _warm(url), on_end=lambda: _stop(server))
        listener = listen(settings.host, settings.port)
    except (BadSettings, BadWorkflow) as exc:
        print(f"cannot start: {exc}", file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"cannot start: HOST={settings.host!r}, PORT={settings.port}: {exc.strerror}", file=sys.stderr)
        return 1
    url = f"http://localhost:{listener.getsockname()[1]}"
    config = uvicorn.Config(
        app,
        http=HeaderTimeoutProtocol,
        log_config=None,
        access_log=settings.log_level in ("trace", "debug"),
        timeout_keep_alive=_KEEP_ALIVE_S,
        # Longer than the lifespan's own: a request that it ends still gets its answer.
        timeout_graceful_shutdown=int(settings.shutdown_grace_s + 2 * END_S),
    )
    lifespan: Lifespan = app.state.lifespan
    server = _Server(config, lifespan)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal that ended it once more, which must not change the exit code.
        signal.signal(number, lambda *_: None)
    with listener:
        try:
            server.run(sockets=[listener])
        finally:
            # A second signal makes uvicorn exit without ending the lifespan.
            lifespan.lifecycle.stop()
    return lifespan.exit_code


class _Server(uvicorn.Server):
    """Begins to end the jobs when the shutdown begins: uvicorn ends the lifespan only when no request is left."""

    def __init__(self, config: uvicorn.Config, lifespan: Lifespan) -> None:
        super().__init__(config)
        self._lifespan = lifespan

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._lifespan.begin_end()
        await super().shutdown(sockets)


def _stop(server: uvicorn.Server) -> None:
    server.should_exit = True


def _warm(url: str) -> None:
    # What is there now stays. Looking through all of it for garbage, as Python does under load, stops everything meanwhile.
    gc.collect()
    gc.freeze()
    _welcome(url)


def _welcome(url: str) -> None:
    logger.info("ready at %s, documentation at %s/docs; try", url, url)
    logger.info(
        "curl -s %s/workflow/flux/txt2img -H 'Content-Type: application/json' "
        """-d '{"input":{"prompt":"8-bit video game art of a salad"}}' """
        "| jq -r '.images[0]' | base64 -d > image.png",
        url,
    )


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    # Not sys.exit, which runs exit handlers of libraries that wait for their threads.
    os._exit(code)
