"""Debian's Chromium without a window."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


def _chromium(*arguments: str) -> str:
    """Run it once; gives what it prints. In CI a missing browser is an error, elsewhere the test is skipped."""
    program = shutil.which("chromium")
    if program is None and not os.environ.get("CI"):
        pytest.skip("needs Debian's package chromium")
    assert program, "Debian's package chromium is not installed"
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    own = "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *quiet.split(), *own.split(), f"--user-data-dir={profile}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def dom(url: str) -> str:
    """The page's document after its scripts have run."""
    return _chromium("--virtual-time-budget=20000", "--dump-dom", url)


def screenshot(url: str, file: Path, *, width: int = 1280, height: int = 1400) -> None:
    _chromium("--virtual-time-budget=20000", f"--window-size={width},{height}", f"--screenshot={file}", url)
