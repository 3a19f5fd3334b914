"""docs/reliability.md names a test for each promise."""

import re

from tests.support.paths import ROOT


def test_the_tests_that_it_names_exist() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    named = re.findall(r"`((?:abuse|emulator|faults|handler|transfers)/[a-z_0-9/]*)`", text)
    assert len(named) > 50
    assert [one for one in named if not list((ROOT / "tests").glob(f"{one.rstrip('/')}*"))] == []
