"""Real small servers for the tests: any ASGI app on a port of its own, an S3 store, the stand-in ComfyUI as a process."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from emulator.listener import listen
from tests.support.standin import Standin


@contextlib.contextmanager
def served(app: Starlette, **options: Any) -> Iterator[str]:
    """Serve an app on loopback, with uvicorn's options; gives its URL."""
    listener = listen("127.0.0.1", 0)
    options = {"timeout_graceful_shutdown": 5, "timeout_keep_alive": 75, **options}
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()
        assert not thread.is_alive()


@contextlib.contextmanager
def s3_store(*buckets: str) -> Iterator[Any]:
    """moto's S3 server with some buckets; gives boto3's client of it."""
    import boto3  # here: not every worker of the suite needs them, and they take their time
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "s3cr3t", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys)
    for name in buckets:
        client.create_bucket(Bucket=name)
    try:
        yield client
    finally:
        client.close()
        server.stop()


@contextlib.contextmanager
def stand_in(base_dir: Path, *options: str) -> Iterator[str]:
    """The stand-in ComfyUI on a free port; gives its URL."""
    server = Standin(base_dir, *options)
    try:
        yield server.url
    finally:
        server.stop()
