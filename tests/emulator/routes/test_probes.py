"""GET /health, /ready and /models."""

import concurrent.futures

import requests

from emulator.app import create_app
from handler import Settings, __version__
from tests.support import graphs
from tests.support.api import Api, api_with
from tests.support.live import served
from tests.support.waiting import wait_until


def test_the_probes_say_that_it_is_up(api: Api) -> None:
    assert api("GET", "/health").json() == {"version": __version__, "status": "healthy"}
    assert api("GET", "/ready").json() == {"version": __version__, "status": "ready"}


def test_before_comfyui_is_up_the_probes_and_prompts_say_so(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"comfyui_url": "http://127.0.0.1:9"}))
    with served(app) as url:
        assert requests.get(f"{url}/health", timeout=30).status_code == 500
        assert requests.get(f"{url}/ready", timeout=30).json() == {"version": __version__, "status": "not ready"}
        answer = requests.post(f"{url}/prompt", json={"prompt": graphs.empty()}, timeout=30)
    assert answer.status_code == 503
    assert answer.json()["code"] == "COMFYUI_UNREACHABLE"


def test_at_the_queue_depth_it_is_not_ready_but_takes_prompts(settings: Settings) -> None:
    with api_with(settings, max_queue_depth=1) as url:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            body = {"prompt": graphs.long(), "id": "long"}
            running = [pool.submit(requests.post, f"{url}/prompt", json=body, timeout=60) for _ in range(2)]
            wait_until(lambda: requests.get(f"{url}/ready", timeout=30).status_code == 503)
            assert requests.get(f"{url}/health", timeout=30).status_code == 200

            def over() -> bool:
                requests.post(f"{url}/interrupt", json={"id": "long"}, timeout=30)
                return all(job.done() for job in running)

            wait_until(over)
        assert [future.result().status_code for future in running] == [499, 499]
        assert requests.get(f"{url}/ready", timeout=30).status_code == 200


def test_models_are_listed_by_folder(api: Api) -> None:
    models = api("GET", "/models").json()
    assert "flux1-schnell-fp8.safetensors" in models["checkpoints"]
    assert {"loras", "vae", "controlnet", "upscale_models"} <= models.keys()
