"""The documentation as a person sees it."""

import re

import pytest

from tests.support import browser
from tests.support.api import Api


@pytest.fixture(scope="module")
def shown(api: Api) -> str:
    return browser.dom(api("GET", "/docs").url)


def test_the_page_lists_every_route(api: Api, shown: str) -> None:
    paths = api("GET", "/docs/json").json()["paths"]
    assert set(re.findall(r'data-path="([^"]+)"', shown)) == set(paths)


def test_the_page_shows_no_error(shown: str) -> None:
    assert "Failed to load" not in shown
    assert "errors-wrapper" not in shown
    assert "Unable to render" not in shown


def test_swagger_ui_comes_from_this_server(api: Api) -> None:
    page = api("GET", "/docs").text
    assert "http" not in re.sub(r"<!doctype.*?>", "", page)
    for path in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert api("GET", f"/{path}").status_code == 200, path
    assert b"swagger" in api("GET", "/docs/static/swagger-ui-bundle.js").content.lower()
