"""Every secret that the server is given, by its operator or by a caller, put through success, failure and webhooks.

None of them may come out again: in an answer, a webhook, a system event, the log at its loudest, a file's name, or an argument of
a process.
"""

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from handler import Settings
from tests.support import graphs
from tests.support.live import served
from tests.support.processes import Server, environment, running
from tests.support.waiting import wait_until

MARK = "C4nary"
_numbers = itertools.count()


def secret() -> str:
    """A new one: 20 letters and digits, which is base64 as well."""
    return f"{MARK}{next(_numbers):014}"


class Outside:
    """Everybody that the server speaks to. What it does not know it refuses; webhooks and system events are kept."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.told: list[str] = []

    def app(self) -> Starlette:
        async def answer(request: Request) -> Response:
            body = await request.body()
            path = request.url.path
            self.seen.append(f"{request.method} {request.url} {dict(request.headers)}")
            if "/hook" in path:
                self.told.append(body.decode())
                return Response(status_code=410 if path.endswith("/gone") else 200)
            if path.endswith("/file"):
                return Response(graphs.picture(color="lime"))
            if path.endswith("/graph"):
                return JSONResponse(graphs.empty())
            return Response(status_code=201 if "/up/" in path else 404 if "/missing" in path else 403)

        methods = ["GET", "HEAD", "PUT", "POST"]
        return Starlette(routes=[Route("/{path:path}", answer, methods=methods)])


def variables(url: str) -> dict[str, str]:
    """Every variable that may hold a secret, with one. `url` is where all of them are used."""
    host = url.removeprefix("http://")
    return {
        "API_KEYS": f"{secret()},{secret()}",
        "HTTP_AUTH_HEADER_NAME": "X-Operator",
        "HTTP_AUTH_HEADER_VALUE": secret(),
        "HTTP_AUTH_HOSTS": host,
        "HTTP_PROXY": f"http://user:{secret()}@{host}",
        "HTTPS_PROXY": f"http://user:{secret()}@{host}",
        "NO_PROXY": "127.0.0.1",
        "AWS_ACCESS_KEY_ID": secret(),
        "AWS_SECRET_ACCESS_KEY": secret(),
        "AWS_SESSION_TOKEN": secret(),
        "AWS_ENDPOINT_URL": url,
        "BUCKET_ENDPOINT_URL": url,
        "BUCKET_ACCESS_KEY_ID": secret(),
        "BUCKET_SECRET_ACCESS_KEY": secret(),
        "AZURE_STORAGE_CONNECTION_STRING": f"AccountName=acc;AccountKey={secret()};BlobEndpoint={url}/acc",
        "AZURE_STORAGE_KEY": secret(),
        "AZURE_STORAGE_SAS_TOKEN": f"sig={secret()}",
        "HF_TOKEN": secret(),
        "HF_ENDPOINT": url,
        "COMFY_ORG_API_KEY": secret(),
        "WEBHOOK_SECRET": f"whsec_{secret()}",
        "SYSTEM_WEBHOOK_URL": f"{url.replace('//', f'//user:{secret()}@')}/hook/system?token={secret()}",
        "SYSTEM_WEBHOOK_EVENTS": "all",
        "WARMUP_PROMPT_URL": f"{url.replace('//', f'//user:{secret()}@')}/graph?token={secret()}",
    }


def test_no_variable_that_may_hold_a_secret_is_left_out() -> None:
    given = variables("http://127.0.0.1:1")
    secrets = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    secrets |= {
        "http_proxy",
        "https_proxy",
        "system_webhook_url",
        "warmup_prompt_url",
        "aws_access_key_id",
        "bucket_access_key_id",
    }
    assert {name for name in secrets if MARK not in given.get(name.upper(), "")} == set()


@pytest.fixture(scope="module")
def outside() -> Iterator[tuple[str, Outside]]:
    made = Outside()
    with served(made.app()) as url:
        yield url, made


@pytest.fixture(scope="module")
def server(
    outside: tuple[str, Outside], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Path, str]]:
    """The server, the folder of all of its files, and an API key."""
    home, given = tmp_path_factory.mktemp("home"), variables(outside[0])
    env = environment(home, **given, LOG_LEVEL="trace", ALLOW_PRIVATE_URLS="true")
    with running("emulator", env) as process:
        wait_until(lambda: "ready at" in process.text())
        yield process, home, given["API_KEYS"].partition(",")[0]


AUTHS: list[Callable[[], dict[str, Any]]] = [
    lambda: {"type": "bearer", "token": secret()},
    lambda: {"type": "basic", "username": secret(), "password": secret()},
    lambda: {"type": "header", "header_name": "X-Caller", "header_value": secret()},
    lambda: {"type": "query", "query_param": "sig", "query_value": secret()},
    lambda: {"type": "s3", "access_key_id": secret(), "secret_access_key": secret(), "session_token": secret()},
]


def signed(url: str, path: str) -> str:
    """A URL with a password and a signature."""
    return f"{url.replace('//', f'//user:{secret()}@')}{path}?token={secret()}#{secret()}"


def options(url: str) -> dict[str, Any]:
    """What every request has: credentials, two webhooks, and a key for API nodes."""
    return {
        "credentials": [{"url_pattern": f"{url}/{n}/**", "auth": auth()} for n, auth in enumerate(AUTHS)],
        "webhook": signed(url, "/hook/legacy"),
        "webhook_v2": signed(url, "/hook/v2"),
        "comfy_org_api_key": secret(),
    }


FAIL = {
    **graphs.empty(),
    "3": {"class_type": "EmulatorFail", "inputs": {"message": "broken", "image": ["1", 0]}},
    "4": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["3", 0]}},
}


def prompts(url: str) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Bodies that are validated, what they are posted to, and what is answered."""
    for n in range(len(AUTHS)):
        for path, status in (("file", 202), ("missing", 400), ("refused", 400)):
            yield "/prompt", {"prompt": graphs.load(signed(url, f"/{n}/{path}"))}, status
    model = signed(url, "/0/missing/m.safetensors")
    yield "/prompt", {"prompt": graphs.changed(graphs.txt2img(), "30", ckpt_name=model)}, 400
    yield "/prompt", {"prompt": FAIL}, 202
    yield "/prompt", {"prompt": graphs.changed(graphs.empty(), "1", width=0)}, 202
    yield "/prompt", {"prompt": graphs.empty(), "webhook_v2": signed(url, "/hook/gone")}, 202
    for folder in ("0/up", "0/no"):
        yield "/prompt", {"prompt": graphs.empty(), "http_upload": {"url_prefix": signed(url, f"/{folder}")}}, 202
    for name, upload in (
        ("s3", {"bucket": "bkt"}),
        ("azure_blob_upload", {"container": "cont"}),
        ("hf_upload", {"repo": "a/b"}),
    ):
        yield "/prompt", {"prompt": graphs.empty(), name: upload}, 202
    for keys in (AUTHS[4](), {**AUTHS[4](), "endpoint": signed(url, "/s3")}):
        credentials = [{"url_pattern": "s3://**", "auth": keys}]
        yield "/prompt", {"prompt": graphs.empty(), "s3": {"bucket": "bkt"}, "credentials": credentials}, 202
    yield "/prompt", {"prompt": graphs.load(f"s3://bkt/{url[-5:]}.png")}, 400
    yield "/prompt", {"prompt": graphs.load(f"hf://a/b/{url[-5:]}.png")}, 400
    fields = {"prompt": "a", "width": 256, "height": 256, "image": signed(url, "/0/file")}
    yield "/workflow/flux/img2img", {"input": fields}, 202


def mistakes(url: str) -> Iterator[tuple[str, Any]]:
    """Bodies that are no requests, with a secret where it does not belong."""
    for wrong in (
        {"credentials": [{"url_pattern": "**", "auth": {"type": "nope", "token": secret()}}]},
        {"credentials": [{"url_pattern": "**", "auth": {"type": "bearer", "token": [secret()]}}]},
        {"credentials": [{"url_pattern": "**", "auth": {"type": "basic", "username": [secret()], "password": 5}}]},
        {"credentials": {"url_pattern": "**", "auth": secret()}},
        {"credentials": secret()},
        {"comfy_org_api_key": [secret()]},
        {"webhook": f"http://user:{secret()}#{secret()}@h/"},
        {"webhook": f"ftp://user:{secret()}@h/"},
        {"webhook_v2": f"http://user:{secret()}@h h/"},
        {"http_upload": {"url_prefix": f"user:{secret()}@h"}},
        {"http_upload": {"url_prefix": f"http://user:{secret()}@[h/"}},
        {"s3": {"bucket": "b", "secret_access_key": secret()}, "http_upload": {"url_prefix": signed(url, "/up")}},
    ):
        yield "/prompt", {"prompt": graphs.empty(), **wrong}
    for bad in (f"http://user:{secret()}#{secret()}@h/", f"http://user:{secret()}@[h/", f"what://u:{secret()}@h/"):
        yield "/prompt", {"prompt": graphs.load(bad)}
        yield "/download", {"url": bad, "model_type": "loras", "wait": True}
    yield "/download", {"url": signed(url, "/m"), "model_type": "nope", "auth": AUTHS[0]()}
    yield (
        "/download",
        {"url": signed(url, "/m"), "model_type": "loras", "auth": {"type": "bearer", "token": 5, "x": secret()}},
    )
    yield "/interrupt", {"id": 5, "key": secret()}


def test_no_secret_comes_out(server: tuple[Server, Path, str], outside: tuple[str, Outside]) -> None:
    print("injected: a secret in every place that takes one")
    process, home, key = server
    url, world = outside
    api = re.findall(r"ready at (\S+),", process.text())[0]
    answers: list[str] = []

    def post(path: str, body: Any, headers: dict[str, str]) -> int:
        answer = requests.post(api + path, json=body, headers=headers, timeout=30)
        answers.append(f"{answer.headers} {answer.text}")
        return answer.status_code

    shown = {"Salad-Api-Key": key}
    deferred = 0
    for path, body, status in prompts(url):
        assert post(path, {**options(url), **body}, shown) == status, answers[-1]
        deferred += status == 202
    assert post("/prompt", {"prompt": graphs.empty(), "credentials": options(url)["credentials"]}, shown) == 200
    for path, body in mistakes(url):
        assert post(path, body, shown) in (400, 404), answers[-1]
    for auth in AUTHS:
        for file, wait in itertools.product(("file", "missing"), (True, False)):
            target = {"url": signed(url, f"/{file}"), "model_type": "loras", "filename": f"{secret()[-8:]}.pt"}
            post("/download", {**target, "auth": auth(), "wait": wait}, shown)
    assert post("/prompt", {}, {"Authorization": f"Bearer {secret()}"}) == 401
    post("/prompt", {"prompt": graphs.load(f"http://proxied.example/x?sig={secret()}")}, shown)
    # Two webhooks of each, and one is told that nobody is there.
    wait_until(lambda: sum('"prompt.' in one or '"output.complete"' in one for one in world.told) >= 2 * deferred)
    wait_until(lambda: process.text().count("file_failed") + process.text().count("could not be downloaded") >= 5)

    arguments = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            arguments.append(entry.read_bytes().decode(errors="replace"))
    names = [str(path.relative_to(home)) for path in home.rglob("*")]
    process.child.terminate()
    process.wait()
    assert any(MARK in one for one in world.seen), "nobody was shown anything"
    assert [line for line in process.text().splitlines() if MARK in line] == []
    assert [one for one in answers if MARK in one] == []
    assert [one for one in world.told if MARK in one] == []
    assert [one for one in (*names, *arguments) if MARK in one] == []
