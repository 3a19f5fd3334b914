"""The HTTP door: routes, bodies, errors, probes."""

import base64
import concurrent.futures
import json
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import yaml
from pydantic import SecretStr

from emulator.app import create_app
from emulator.http.listener import listen
from emulator.routes import deepinfra
from handler import Settings, __version__
from tests.support import graphs
from tests.support.api import Api, api_with
from tests.support.comfyui import Comfyui
from tests.support.live import served
from tests.support.raw import answered
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
            body = {"prompt": graphs.sleep(30), "id": "long"}
            running = [pool.submit(requests.post, f"{url}/prompt", json=body, timeout=40) for _ in range(2)]
            wait_until(lambda: requests.get(f"{url}/ready", timeout=30).status_code == 503)
            assert requests.get(f"{url}/health", timeout=30).status_code == 200

            def over() -> bool:
                requests.post(f"{url}/interrupt", json={"id": "long"}, timeout=30)
                return all(job.done() for job in running)

            wait_until(over)
        assert [future.result().status_code for future in running] == [499, 499]
        assert requests.get(f"{url}/ready", timeout=30).status_code == 200


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
        answer = requests.post(f"{url}/prompt", json={"prompt": graphs.empty()}, headers=headers, timeout=20)
        assert answer.status_code == status
        assert requests.get(f"{url}/models", headers=headers, timeout=20).status_code == status
        assert requests.get(f"{url}/health", timeout=30).status_code == 200
    if status == 401:
        assert answer.json().keys() == {"statusCode", "code", "error"}
        assert answer.json()["code"] == "UNAUTHORIZED"


def test_over_the_queue_limit_a_request_is_refused(settings: Settings, clean: Comfyui) -> None:
    queue = f"{clean.url}/prompt"
    with api_with(settings, queue_limit=1) as url:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            long = {"prompt": graphs.sleep(30), "id": "long"}
            running = pool.submit(requests.post, f"{url}/prompt", json=long, timeout=40)
            wait_until(lambda: requests.get(queue, timeout=30).json() == {"exec_info": {"queue_remaining": 1}})
            body = {"prompt": graphs.empty()}
            refused = requests.post(f"{url}/prompt", json=body, timeout=20)
            assert (refused.status_code, refused.json()["code"]) == (429, "QUEUE_FULL")
            assert refused.headers["retry-after"] == "5"
            requests.post(f"{url}/interrupt", json={"id": "long"}, timeout=30)
            assert running.result().status_code == 499
        assert requests.post(f"{url}/prompt", json=body, timeout=20).status_code == 200


def test_head_works_where_get_does(api: Api) -> None:
    for path in ("/health", "/ready", "/models", "/docs", "/docs/json"):
        answer = api("HEAD", path)
        assert (answer.status_code, answer.content) == (200, b""), path


def test_models_are_listed_by_folder(api: Api) -> None:
    models = api("GET", "/models").json()
    assert "flux1-schnell-fp8.safetensors" in models["checkpoints"]
    assert {"loras", "vae", "controlnet", "upscale_models"} <= models.keys()


def test_a_prompt_gives_its_picture(api: Api, clean: Comfyui) -> None:
    answer = api("POST", "/prompt", json={"prompt": graphs.txt2img(seed=21), "id": "http"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"id", "prompt", "images", "filenames", "outputs", "stats"}
    assert body["filenames"] == ["http_Flux_00001_.png"]
    assert base64.b64decode(body["images"][0]).startswith(b"\x89PNG")


def test_the_field_of_another_dialect_is_an_unknown_field(api: Api) -> None:
    assert api("POST", "/prompt", json={"prompt": graphs.empty(), "workflow": "x"}).status_code == 200
    assert api("POST", "/prompt", json={"workflow": "flux/txt2img", "input": {}}).json()["location"] == "prompt"
    body = {"input": {"prompt": "a", "width": 256, "height": 256}, "prompt": "x", "workflow": "nope"}
    assert api("POST", "/workflow/flux/txt2img", json=body).status_code == 200


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


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"prompt": NaN}', "not valid JSON"),
        (b'{"id": "\xff"}', "not valid JSON"),
        (rb'{"id": "\ud800"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"{}", "`prompt`: Field required"),
    ],
)
def test_a_body_that_is_no_prompt_is_refused(api: Api, clean: Comfyui, data: bytes, says: str) -> None:
    answer = api("POST", "/prompt", data=data, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["code"] == "BAD_REQUEST"
    assert says in answer.json()["error"]


def test_other_media_types_are_refused(api: Api) -> None:
    for media_type in ("text/plain", "application/x-www-form-urlencoded", None):
        answer = api("POST", "/prompt", data=b"{}", headers={"Content-Type": media_type})
        assert answer.status_code == 415
        assert answer.json()["code"] == "UNSUPPORTED_MEDIA_TYPE"
    charset = {"Content-Type": "application/json; charset=utf-8"}
    assert api("POST", "/prompt", data=b"{}", headers=charset).status_code == 400


@pytest.fixture
def raw(api: Api) -> Iterator[socket.socket]:
    """A bare connection to the server."""
    url = urlsplit(api("GET", "/health").url)
    with socket.create_connection((str(url.hostname), int(url.port or 0)), timeout=30) as sock:
        yield sock


HEAD = b"POST /prompt HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def test_a_body_over_the_limit_is_refused_by_its_header_alone(raw: socket.socket) -> None:
    raw.sendall(HEAD + b"Content-Length: 9000000\r\n\r\n")
    status, body = answered(raw)
    assert status == 413
    assert b"TOO_LARGE" in body


def test_a_body_over_the_limit_is_refused_while_it_streams_in(api: Api, raw: socket.socket) -> None:
    raw.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    chunk = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"
    for _ in range(36):  # 9 of the 8 MB, and no end of the body
        raw.sendall(chunk)
    status, body = answered(raw)
    assert status == 413
    assert b"TOO_LARGE" in body
    assert api("GET", "/health").status_code == 200


def test_a_body_below_the_limit_passes(api: Api) -> None:
    assert api("POST", "/prompt", json={"prompt": graphs.empty(), "padding": "x" * (7 << 20)}).status_code == 200


@pytest.mark.parametrize(
    ("prompt", "status", "code"),
    [
        (graphs.changed(graphs.empty(), "1", width=0), 400, "PROMPT_REJECTED"),
        ({**graphs.empty(), "7": {"class_type": "NoSuchNode", "inputs": {}}}, 400, "PROMPT_REJECTED"),
        (graphs.load("http://127.0.0.1:1/x.png"), 400, "INPUT_UNAVAILABLE"),
        (graphs.load("AAAA" * (1 << 20)), 413, "TOO_LARGE"),
        (
            {
                **graphs.empty(),
                "3": {"class_type": "EmulatorFail", "inputs": {"message": "broken", "image": ["1", 0]}},
                "4": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["3", 0]}},
            },
            500,
            "PROMPT_FAILED",
        ),
    ],
)
def test_failures_have_their_status_and_one_shape(
    api: Api, clean: Comfyui, prompt: Any, status: int, code: str
) -> None:
    answer = api("POST", "/prompt", json={"prompt": prompt})
    body = answer.json()
    assert (answer.status_code, body["statusCode"], body["code"]) == (status, status, code)
    assert body["error"].endswith((".", "?", "broken"))
    assert body["location"].startswith("prompt.")
    assert body.keys() <= {"statusCode", "code", "error", "location", "node_errors"}


@pytest.mark.parametrize("seed", [10**40, 1e300])
def test_a_number_beyond_64_bits_is_refused_like_any_other(api: Api, clean: Comfyui, seed: float) -> None:
    """ComfyUI's answer repeats it as an integer that the JSON encoder does not take: it was an internal error."""
    answer = api("POST", "/prompt", json={"prompt": graphs.changed(graphs.txt2img(), "31", seed=seed)})
    assert (answer.status_code, answer.json()["location"]) == (400, "prompt.31.inputs.seed")


def test_a_class_without_a_name_is_an_unknown_one(api: Api, clean: Comfyui) -> None:
    answer = api("POST", "/prompt", json={"prompt": {**graphs.empty(), "7": {"class_type": "", "inputs": {}}}})
    assert (answer.status_code, answer.json()["code"]) == (400, "PROMPT_REJECTED")


def test_a_deadline_is_a_504(api: Api, clean: Comfyui) -> None:
    answer = api("POST", "/prompt", json={"prompt": graphs.sleep(20), "timeout_s": 0.3})
    assert (answer.status_code, answer.json()["code"]) == (504, "TIMEOUT")


def test_many_at_once_all_succeed_while_health_answers(api: Api, clean: Comfyui) -> None:
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        calls = [
            pool.submit(api, "POST", "/prompt", json={"prompt": graphs.empty(color=n), "id": f"many-{n}"})
            for n in range(64)
        ]
        assert api("GET", "/health").status_code == 200
        answers = [call.result().json() for call in calls]
    assert [answer["filenames"] for answer in answers] == [[f"many-{n}_E_00001_.png"] for n in range(64)]
    shown = [graphs.opened(answer["images"][0]).getpixel((0, 0)) for answer in answers]
    assert shown == [(0, 0, n) for n in range(64)]


def test_ipv4_and_ipv6_answer_on_one_port() -> None:
    with listen("::", 0) as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), timeout=30):
                pass


def test_cors_is_off(api: Api) -> None:
    answer = api("GET", "/health", headers={"Origin": "https://example.com"})
    assert "access-control-allow-origin" not in answer.headers


def test_swagger_ui_comes_from_this_server(api: Api) -> None:
    page = api("GET", "/docs").text
    assert "http" not in re.sub(r"<!doctype.*?>", "", page)
    for path in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert api("GET", f"/{path}").status_code == 200, path
    assert b"swagger" in api("GET", "/docs/static/swagger-ui-bundle.js").content.lower()


def test_the_openapi_document_knows_every_route(api: Api) -> None:
    document = api("GET", "/docs/json").json()
    assert document["openapi"].startswith("3.1")
    expected = {"/health", "/ready", "/models", "/metrics", "/prompt", "/interrupt", "/download", deepinfra.ROUTE} | {
        f"/workflow/{route}" for route in ("flux/txt2img", "flux/img2img", "text2img", "sd1.5/txt2img", "sd1.5/img2img")
    }
    assert set(document["paths"]) == expected
    assert all(next(iter(path.values()))["summary"] for path in document["paths"].values())


def test_the_openapi_document_has_limits_defaults_and_comfyui_s_lists(api: Api) -> None:
    schemas = api("GET", "/docs/json").json()["components"]["schemas"]
    fields = schemas["WorkflowFluxTxt2imgInput"]["properties"]
    assert (fields["width"]["minimum"], fields["width"]["maximum"], fields["width"]["default"]) == (256, 2048, 1024)
    assert {"euler", "dpmpp_2m"} <= set(fields["sampler_name"]["enum"])
    assert {"simple", "karras"} <= set(fields["scheduler"]["enum"])
    assert "flux1-schnell-fp8.safetensors" in fields["checkpoint"]["enum"]
    assert fields["checkpoint"]["default"] == "flux1-schnell-fp8.safetensors"
    assert schemas["WorkflowFluxTxt2imgInput"]["required"] == ["prompt"]
    assert all(field["description"] for field in fields.values())
    assert "chromaSubsampling" in schemas["JpegOptions"]["properties"]
    assert "x-comfyui" not in json.dumps(schemas)


def test_every_reference_in_the_document_leads_somewhere(api: Api) -> None:
    document = api("GET", "/docs/json").json()
    names = re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document))
    assert names
    assert set(names) <= set(document["components"]["schemas"])


def test_the_yaml_document_is_the_same(api: Api) -> None:
    assert yaml.safe_load(api("GET", "/docs/yaml").text) == api("GET", "/docs/json").json()


def test_the_table_of_inputs_can_be_left_out(api: Api, settings: Settings) -> None:
    path = "/workflow/sd1.5/img2img"
    shown = api("GET", "/docs/json").json()["paths"][path]["post"]["description"]
    assert '| negative_prompt | string | What the image must not show. | `"text, watermark"` |' in shown
    with served(create_app(settings.model_copy(update={"markdown_schema_descriptions": False}))) as url:
        bare = requests.get(f"{url}/docs/json", timeout=30).json()["paths"][path]["post"]["description"]
    assert "|" not in bare
