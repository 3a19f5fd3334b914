"""Folders of models as mounted volumes, and what is started with them."""

from pathlib import Path

from handler import Lifecycle, Settings
from tests.support.processes import lifecycle


def touched(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def settings(tmp_path: Path, *volumes: Path, **more: str) -> Settings:
    environ = {"COMFY_HOME": str(tmp_path / "home"), "CACHE_DIR": str(tmp_path / "cache"), **more}
    return Settings.from_environ({**environ, "NETWORK_VOLUMES": ",".join(map(str, volumes))})


def started(home: Path, *volumes: Path, **more: str) -> Lifecycle:
    listed = ",".join(map(str, volumes))
    return lifecycle(home, NETWORK_VOLUMES=listed, **more)
