"""What holds for all routes of the HTTP API."""

import pytest

from tests.support.api import Api


def test_head_works_where_get_does(api: Api) -> None:
    for path in ("/health", "/ready", "/models", "/docs", "/docs/json"):
        answer = api("HEAD", path)
        assert (answer.status_code, answer.content) == (200, b""), path


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nope"),
        ("POST", "/nope"),
        ("GET", "/"),
        ("GET", "/prompt"),
        ("PUT", "/prompt"),
        ("OPTIONS", "/prompt"),
        ("POST", "/health"),
        ("POST", "/prompt/"),
        ("GET", "/HEALTH"),
        ("POST", "/workflow/none"),
        ("GET", "/workflow/flux/txt2img"),
        ("GET", "/docs/static/../../__init__.py"),
    ],
)
def test_an_unknown_route_and_a_wrong_method_are_not_found(api: Api, method: str, path: str) -> None:
    """As reference."""
    answer = api(method, path)
    assert answer.status_code == 404
    if not path.startswith("/docs"):
        expected = {"statusCode": 404, "code": "NOT_FOUND", "error": f"Route {method}:{path} not found"}
        assert answer.json() == expected


def test_cors_is_off(api: Api) -> None:
    answer = api("GET", "/health", headers={"Origin": "https://example.com"})
    assert "access-control-allow-origin" not in answer.headers
