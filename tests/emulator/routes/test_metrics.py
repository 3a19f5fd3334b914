"""GET /metrics, as Prometheus reads it."""

import re

import pytest

from tests.support import graphs
from tests.support.api import Api
from tests.support.comfyui import Comfyui


def figures(api: Api) -> dict[str, float]:
    answer = api("GET", "/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return {name: float(value) for name, value in re.findall(r"^(comfyui_handler\S+) (\S+)$", answer.text, re.M)}


def test_it_counts_jobs_by_how_they_ended(api: Api, clean: Comfyui) -> None:
    before = figures(api)
    assert before["comfyui_handler_queue_depth"] == 0
    assert before["comfyui_handler_ready"] == 1
    assert api("POST", "/prompt", json={"prompt": graphs.empty()}).status_code == 200
    assert api("POST", "/prompt", json={"prompt": graphs.changed(graphs.empty(), "1", width=0)}).status_code == 400
    after = figures(api)
    for code in ("ok", "PROMPT_REJECTED"):
        name = f'comfyui_handler_jobs_total{{code="{code}"}}'
        assert after[name] == before.get(name, 0) + 1
    assert after["comfyui_handler_job_seconds_count"] == before["comfyui_handler_job_seconds_count"] + 1
    assert after["comfyui_handler_job_seconds_sum"] == pytest.approx(before["comfyui_handler_job_seconds_sum"], abs=5)
