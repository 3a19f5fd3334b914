"""API keys, in the headers that the platforms send them in."""

import pytest
import requests
from pydantic import SecretStr

from handler import Settings
from tests.support import graphs
from tests.support.api import api_with


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Salad-Api-Key": "wrong"}, 401),
        ({"Salad-Api-Key": "key-1,key-2"}, 401),
        ({"Authorization": "Basic key-1"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Salad-Api-Key": "key-1"}, 200),
        ({"Authorization": "Bearer key-2"}, 200),
        ({"Authorization": "bearer key-2"}, 200),
    ],
)
def test_with_api_keys_one_must_be_shown(settings: Settings, headers: dict[str, str], status: int) -> None:
    with api_with(settings, api_keys=SecretStr("key-1, key-2")) as url:
        answer = requests.post(f"{url}/prompt", json={"prompt": graphs.empty()}, headers=headers, timeout=60)
        assert answer.status_code == status
        assert requests.get(f"{url}/models", headers=headers, timeout=60).status_code == status
        assert requests.get(f"{url}/health", timeout=30).status_code == 200
    if status == 401:
        assert answer.json().keys() == {"statusCode", "code", "error"}
        assert answer.json()["code"] == "UNAUTHORIZED"
