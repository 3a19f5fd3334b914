"""A COMFY_HOME to install a manifest into, and what is to be installed."""

import io
import json
import logging
import os
import subprocess
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from handler.manifest.__main__ import main
from handler.settings import Settings

Git = Callable[..., str]


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@dataclass
class World:
    """A COMFY_HOME, the settings that lead there, and a folder of programs that are found first."""

    home: Path
    settings: Settings
    bin: Path

    def program(self, name: str, *, code: int = 0) -> Path:
        """A program that writes down what it is called with; gives the file."""
        record = self.bin / f"{name}.record"
        script = self.bin / name
        script.write_text(
            f'#!/bin/sh\necho "$DEBIAN_FRONTEND $*" >> {record}\necho "E: it is a fake" >&2\nexit {code}\n'
        )
        script.chmod(0o755)
        return record

    def manifest(self, text: str, name: str = "manifest.yaml") -> Path:
        file = self.home / name
        file.write_text(text)
        return file

    def command(self, given: dict[str, Any], *options: str, **environ: str) -> "Done":
        """`python -m handler.manifest` on a manifest, in this process: to start one takes longer than most commands."""
        file = self.manifest(json.dumps(given), "manifest.json")
        env = {
            "COMFY_HOME": str(self.home),
            "CACHE_DIR": str(self.settings.cache_dir),
            "CMD": self.settings.cmd or "",
            "ALLOW_PRIVATE_URLS": "true",
            **environ,
        }
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        try:
            with (
                mock.patch.dict(os.environ, env),
                redirect_stdout(io.StringIO()) as output,
                redirect_stderr(io.StringIO()) as errors,
            ):
                code = main([str(file), *options])
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
        return Done(code, output.getvalue(), errors.getvalue())

    def with_manifest(self, **given: Any) -> Settings:
        return self.settings.model_copy(update={"manifest_json": json.dumps(given)})


def wheel(folder: Path, name: str) -> Path:
    """A Python package that is a wheel with one module."""
    file = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", "here = True\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: a\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return file


def imports(world: World, module: str) -> bool:
    assert world.settings.cmd
    return subprocess.run([world.settings.cmd.split()[0], "-c", f"import {module}"], check=False).returncode == 0
