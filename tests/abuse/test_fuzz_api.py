"""Requests that are made of the server's own OpenAPI document, right and wrong ones: no bug shows, and none hangs.

The same few each time; `pytest -m slow` makes thousands of new ones.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examples
from schemathesis.generation import GenerationMode

from emulator.routes.deepinfra import ROUTE
from handler import Settings
from tests.support.api import api_with

# The server's threads draw seeds in this process while hypothesis makes a request.
pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")

WORKFLOWS = ("flux/txt2img", "flux/img2img", "text2img", "sd1.5/txt2img", "sd1.5/img2img")
PATHS = ["/prompt", "/interrupt", "/download", ROUTE, *(f"/workflow/{name}" for name in WORKFLOWS)]
CHECKS = [
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
    schemathesis.checks.status_code_conformance,
]
QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large, HealthCheck.large_base_example]


@pytest.fixture(scope="module")
def document(settings: Settings) -> Iterator[Any]:
    """The document of a server that gives prompts little time and meets nobody."""
    with api_with(settings, prompt_timeout_s=1, upload_timeout_s=1, allow_private_urls=False) as url:
        schema = schemathesis.openapi.from_url(f"{url}/docs/json")
        schema.config.update(base_url=url)
        yield schema


def test_whatever_takes_a_body_is_tried(document: Any) -> None:
    operations = [each.ok() for each in document.get_all_operations()]
    assert {each.path for each in operations if each.method != "get"} == set(PATHS)


def fuzzed(document: Any, path: str, mode: GenerationMode, **options: Any) -> None:
    @examples(deadline=None, database=None, suppress_health_check=QUIET, **options)
    @given(document[path]["post"].as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        response = case.call(timeout=30)
        if response.status_code >= 500:
            # What failed by itself has a code of its own; what is left is a bug.
            assert response.json()["code"] != "INTERNAL", response.text
        case.validate_response(response, checks=CHECKS)

    run()


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", PATHS)
def test_a_few_requests(document: Any, path: str, mode: GenerationMode) -> None:
    fuzzed(document, path, mode, max_examples=8, derandomize=True, phases=[Phase.generate])


@pytest.mark.slow
@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", PATHS)
def test_many_requests(document: Any, path: str, mode: GenerationMode) -> None:
    fuzzed(document, path, mode, max_examples=500)
