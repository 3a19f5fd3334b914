"""Microsoft's stand-in for Azure Blob Storage, from npm, as a process."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.support.ports import free_port

VERSION = "3"
ACCOUNT = "devstoreaccount1"
# The well-known key of the emulator's account.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[str]:
    """A running azurite; gives the account's blob endpoint. Skips where it cannot be had, except in CI."""
    program = _program()
    port = free_port()
    log = (folder / "log").open("wb")
    # Of node and not of the shell's wrapper, so that the process that is stopped is azurite itself.
    process = subprocess.Popen(
        [
            *("node", program, "--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"),
            *("--blobHost", "127.0.0.1", "--blobPort", str(port)),
        ],
        cwd=folder,
        stdout=log,
        stderr=log,
    )
    try:
        _wait(process, port)
        yield f"http://127.0.0.1:{port}/{ACCOUNT}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        log.close()


def _program() -> Path:
    """azurite's blob server, installed once for all runs."""
    home = Path(tempfile.gettempdir()) / f"comfyui-handler-azurite-{VERSION}"
    program = home / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    # Another worker of the suite, or another suite, may be installing it: what is half there starts no server.
    with FileLock(home.with_suffix(".lock"), timeout=600):
        if not program.exists():
            _install(home)
    return program


def _install(home: Path) -> None:
    part = Path(tempfile.mkdtemp(prefix=home.name, dir=home.parent))
    npm = shutil.which("npm")
    failed = "npm is not installed"
    if npm:
        done = subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--prefix", str(part), f"azurite@{VERSION}"],
            capture_output=True,
            text=True,
            timeout=300,
        )
        failed = f"npm could not install azurite: {done.stderr[-300:]}" if done.returncode else ""
    if failed:
        shutil.rmtree(part)
        if not os.environ.get("CI"):
            pytest.skip(failed)
        pytest.fail(failed)
    shutil.rmtree(home, ignore_errors=True)
    part.rename(home)


def _wait(process: "subprocess.Popen[bytes]", port: int) -> None:
    end = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, "azurite has ended"
        assert time.monotonic() < end, "azurite did not start in time"
        time.sleep(0.05)
