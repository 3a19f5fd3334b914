"""Writes docs/configuration.md, the table of all settings: `python -m tests.docs.settings_table`."""

from pathlib import Path

from handler import Settings
from tests.support.paths import ROOT

FILE = ROOT / "docs" / "configuration.md"

HEAD = """# Configuration

All settings are environment variables. An empty value counts as unset, except for `CMD`. An invalid value stops the start with
one line that names it. The log warns of unknown variables whose names are close to one of these.

<!-- Made from handler/settings.py by `python -m tests.docs.settings_table`; a test compares. -->

| variable | default | meaning |
|---|---|---|
"""


def text() -> str:
    """The page, as it must be."""
    rows = [
        f"| `{variable(name)}` | {default(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return HEAD + "\n".join(rows) + "\n"


def variable(field: str) -> str:
    return "SYSTEM_META_*" if field == "system_meta" else field.upper()


def default(value: object) -> str:
    if value in (None, "", {}):
        return ""
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{shown.replace(f'{ROOT}/', '').replace(str(Path.home()), '~')}`"


if __name__ == "__main__":
    FILE.write_text(text())
