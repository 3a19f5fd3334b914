"""How much memory the stores take for a large file: python -m tests.bench.storage [MB]

Every store uploads a sparse file to a server of its own process that forgets what it gets, and fetches as much from it.
"""

import json
import multiprocessing
import re
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO

from handler import Settings
from handler.schemas.uploads import AzureUpload, HfUpload, HttpUpload, S3Upload, Upload
from handler.storage import store_for_upload, store_for_url

_MB = 1 << 20


class _Sink(BaseHTTPRequestHandler):
    """Says yes to uploads of all four kinds; a GET answers as many zeros as the last part of its path says."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self._swallow()
        self._answer(201)

    def do_POST(self) -> None:
        body = self._swallow()
        host = f"http://{self.headers['Host']}"
        if "/preupload/" in self.path:
            path = json.loads(body)["files"][0]["path"]
            self._json({"files": [{"path": path, "uploadMode": "lfs", "shouldIgnore": False}]})
        elif self.path.endswith("/objects/batch"):
            one = json.loads(body)["objects"][0]
            self._json({"objects": [{**one, "actions": {"upload": {"href": f"{host}/lfs"}}}]})
        elif "/commit/" in self.path:
            self._json({"commitUrl": f"{host}/a/b/commit/0", "commitOid": "0" * 40})
        elif "uploads" in self.path:
            self._answer(200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
        else:
            self._answer(200, b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")

    def do_GET(self) -> None:
        left = int(self.path.partition("?")[0].rpartition("/")[2])
        self.send_response(200)
        self.send_header("Content-Length", str(left))
        self.end_headers()
        while left:
            left -= self.wfile.write(bytes(min(left, _MB)))

    def log_message(self, *_args: object) -> None:
        pass

    def _swallow(self) -> bytes:
        """Read the body; gives its end."""
        left, last = int(self.headers["Content-Length"] or 0), b""
        while left:
            last = self.rfile.read(min(left, _MB))
            left -= len(last)
        return last

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode())

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (("ETag", '"0"'), ("Last-Modified", self.date_time_string())):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _serve(ready: Connection) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    ready.send(server.server_address[1])
    server.serve_forever()


def _status(name: str) -> float:
    """A size of this process, in MB."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1024


def _added(do: Callable[[], object]) -> tuple[float, float]:
    """MB of memory that something takes at its peak, and its seconds."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before, begin = _status("VmRSS"), time.monotonic()
    do()
    return _status("VmHWM") - before, time.monotonic() - begin


def _stored(upload: Upload, settings: Settings, content: BinaryIO, size: int) -> None:
    store = store_for_upload(upload, settings)
    store.store(upload, "f.bin", content, size=size, mime_type="video/mp4", auth_for=lambda _url: None)


def _fetched(url: str, settings: Settings) -> None:
    with tempfile.TemporaryFile() as file:
        store_for_url(url, settings).fetch(url, file, max_bytes=None)


def _measured(host: str, mb: int) -> None:
    account = f"{host}/account"
    settings = Settings.from_environ(
        {
            "ALLOW_PRIVATE_URLS": "true",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "key",
            "AWS_ENDPOINT_URL": host,
            "AZURE_STORAGE_CONNECTION_STRING": f"AccountName=account;AccountKey=a2V5;BlobEndpoint={account}",
            "HF_TOKEN": "key",
            "HF_ENDPOINT": host,
        }
    )
    web = host.replace("127.0.0.1", "localhost")  # by its other name it is not the hub
    stores: list[tuple[str, Upload, str]] = [
        ("http", HttpUpload(url_prefix=web), web),
        ("s3", S3Upload(bucket="bkt"), "s3://bkt"),
        ("azure", AzureUpload(container="cont"), f"{account}/cont"),
        ("hf", HfUpload(repo="a/b"), "hf://a/b"),
    ]
    sys.stdout.write(f"{mb} MB      upload: added MB  seconds    fetch: added MB  seconds\n")
    for name, upload, base in stores:
        with tempfile.TemporaryFile() as content:
            for size in (1000, mb * _MB):  # the first loads the libraries
                content.truncate(size)
                up = _added(partial(_stored, upload, settings, content, size))
                down = _added(partial(_fetched, f"{base}/{size}", settings))
        sys.stdout.write(f"{name:8}{up[0]:24.1f}{up[1]:9.1f}{down[0]:19.1f}{down[1]:9.1f}\n")


def main() -> None:
    mb = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    context = multiprocessing.get_context("spawn")
    ready, sender = context.Pipe()
    sink = context.Process(target=_serve, args=(sender,), daemon=True)
    sink.start()
    try:
        _measured(f"http://127.0.0.1:{ready.recv()}", mb)
    finally:
        sink.terminate()
        sink.join()


if __name__ == "__main__":
    main()
