"""Every variable has an effect: each field of Settings is read by code outside handler/settings.py."""

import ast
from pathlib import Path

from handler import Settings
from tests.support.paths import ROOT

SETTINGS = ROOT / "handler" / "settings.py"


def read(file: Path, owner: str) -> set[str]:
    """The attributes that a file reads of `owner`, such as settings.port and self._settings.port."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute):
            value = node.value
            name = value.attr if isinstance(value, ast.Attribute) else value.id if isinstance(value, ast.Name) else ""
            if name.lstrip("_") in (owner, "trusted"):
                found.add(node.attr)
    return found


def used() -> set[str]:
    sources = [file for folder in ("handler", "emulator") for file in (ROOT / folder).rglob("*.py") if file != SETTINGS]
    outside = set().union(*(read(file, "settings") for file in sources))
    # What a property that is used outside is made of.
    properties = [name for name, value in vars(Settings).items() if isinstance(value, property) and name in outside]
    return outside | (read(SETTINGS, "self") if properties else set())


def test_every_variable_is_read_by_the_program() -> None:
    assert sorted(Settings.model_fields.keys() - used()) == []
