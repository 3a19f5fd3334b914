"""What the Dockerfiles say, read by BuildKit's own parser, and the programs that check such files."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import dockerfile

MODELS = ("flux-schnell", "flux-dev", "dreamshaper")
SHARED_END = "# ---- The same in all three files down to here. ----\n"


def instructions(file: Path, *kinds: str) -> list[dockerfile.Command]:
    """What BuildKit's own parser finds in a file."""
    return [one for one in dockerfile.parse_file(str(file)) if one.cmd in kinds]


def arguments(file: Path) -> dict[str, str]:
    """The build arguments that have a default."""
    pairs = [value.partition("=") for one in instructions(file, "ARG") for value in one.value]
    return {key: value for key, equals, value in pairs if equals}


def program(tool: str, *options: str) -> str:
    """What a program says that is content; those of packages lie beside this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [shutil.which(tool, path=path) or tool, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
