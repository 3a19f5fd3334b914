"""Stands for ComfyUI's own main.py where an image is built: imports nodes and tells of it as ComfyUI 0.3.64 does."""

import argparse
import importlib.util
import runpy
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", default="127.0.0.1")
    parser.add_argument("--port", default="8188")
    for flag in ("--cpu", "--quick-test-for-ci", "--log-stdout", "--disable-auto-launch"):
        parser.add_argument(flag, action="store_true")
    given, _ = parser.parse_known_args()
    log = sys.stdout if given.log_stdout else sys.stderr
    times = [(*imported(folder), folder) for folder in sorted((HERE / "custom_nodes").glob("*/"))]
    for _, reason, folder in times:
        if reason:
            log.write(f"Traceback (most recent call last):\nCannot import {folder} module for custom nodes: {reason}\n")
    log.write("\nImport times for custom nodes:\n")
    for took, reason, folder in times:
        log.write(f"{took:6.1f} seconds{' (IMPORT FAILED)' if reason else ''}: {folder}\n")
    log.write("\n")
    for file in sorted((HERE / "comfy_extras").glob("*.py")):
        _, reason = imported(file)
        log.write(f"IMPORT FAILED: {file.name}\n" if reason else "")
    if not given.quick_test_for_ci:
        log.flush()
        sys.argv[1:] = ["--host", given.listen, "--port", given.port, "--base-dir", str(HERE)]
        runpy.run_module("emulator.comfyui", run_name="__main__", alter_sys=True)


def imported(path: Path) -> tuple[float, str]:
    """How long a node took, a folder or a file, and why it cannot be imported."""
    began = time.perf_counter()
    try:
        file = path / "__init__.py" if path.is_dir() else path
        spec = importlib.util.spec_from_file_location(path.stem.replace("-", "_"), file)
        assert spec
        assert spec.loader
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as exc:  # noqa: BLE001 (whatever a node raises)
        return time.perf_counter() - began, str(exc) or type(exc).__name__
    return time.perf_counter() - began, ""


if __name__ == "__main__":
    main()
