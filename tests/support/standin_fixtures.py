"""The fixtures that start stand-ins."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.standin import Standin


@pytest.fixture(scope="session")
def shared_standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    server = Standin(tmp_path_factory.mktemp("comfyui"))
    yield server
    server.stop()


@pytest.fixture
def standin(shared_standin: Standin) -> Standin:
    """The one server of the test session, with nothing in its memory."""
    shared_standin.forget()
    return shared_standin


@pytest.fixture
def own_standin(tmp_path: Path) -> Iterator[Standin]:
    """A server that only this test uses."""
    server = Standin(tmp_path)
    yield server
    server.stop()
