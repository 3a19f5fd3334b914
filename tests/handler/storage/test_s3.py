"""Objects behind s3:// URLs, and uploads to a bucket."""

import asyncio
import io
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from handler import Settings
from handler.errors import BadRequest, DeliveryError, ForbiddenUrl, InputUnavailable, TooLarge
from handler.schemas.credentials import Auth, S3Auth
from handler.schemas.uploads import S3Upload
from handler.storage import Version, store_for_upload
from tests.support.live import s3_store, served
from tests.support.storage import fetch_bytes

CONTENT = bytes(range(256)) * 1000
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "s3cret"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_store() as client:
        yield client.meta.endpoint_url


@pytest.fixture(scope="module")
def bucket(endpoint: str) -> Iterator[Any]:
    """The bucket `bkt` as somebody else sees it, with one object."""
    import boto3

    session = boto3.Session("x", "x", region_name="us-east-1")
    client = session.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="bkt")
    client.put_object(Bucket="bkt", Key="in/pic.png", Body=CONTENT)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def no_credentials_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """botocore looks into the environment and the home folder of whoever runs the tests."""
    for name in (*KEYS, "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))


@pytest.fixture
def settings(endpoint: str, bucket: object) -> Settings:
    return Settings.from_environ({**KEYS, "AWS_ENDPOINT_URL": endpoint, "ALLOW_PRIVATE_URLS": "true"})


def caller(endpoint: str | None = None, **more: str) -> Auth:
    return S3Auth.model_validate(
        {"type": "s3", "access_key_id": "callers", "secret_access_key": "s3cret", "endpoint": endpoint, **more}
    )


def stored(
    upload: S3Upload,
    settings: Settings,
    filename: str = "s1_Flux_00001_.png",
    content: bytes = b"content",
    *,
    auth: Auth | None = None,
) -> str:
    file = io.BytesIO(content)
    url = store_for_upload(upload, settings).store(
        upload, filename, file, size=len(content), mime_type="image/png", auth_for=lambda _url: auth
    )
    assert not file.closed
    return url


def test_an_object_is_fetched(settings: Settings) -> None:
    assert fetch_bytes("s3://bkt/in/pic.png", settings) == CONTENT
    assert fetch_bytes("S3://bkt/in/pic.png", settings) == CONTENT


@pytest.fixture
def version(settings: Settings, tmp_path: Path) -> Version:
    """That of the object."""
    kept = Version(tmp_path / "version")
    fetch_bytes("s3://bkt/in/pic.png", settings, version=kept)
    return kept


def test_only_the_rest_of_a_begun_object_is_fetched(settings: Settings, version: Version) -> None:
    url = "s3://bkt/in/pic.png"
    assert fetch_bytes(url, settings, b"x" * 1000, version=version) == b"x" * 1000 + CONTENT[1000:]
    assert fetch_bytes(url, settings, b"x" * len(CONTENT), version=version) == b"x" * len(CONTENT)


def test_an_object_of_which_another_version_or_none_was_begun_is_fetched_anew(
    settings: Settings, version: Version
) -> None:
    assert fetch_bytes("s3://bkt/in/pic.png", settings, b"x" * 1000) == CONTENT
    version.keep('"another"')
    assert fetch_bytes("s3://bkt/in/pic.png", settings, b"x" * 1000, version=version) == CONTENT
    assert fetch_bytes("s3://bkt/in/pic.png", settings, b"x" * 1000, version=version)[:1000] == b"x" * 1000


def test_a_file_that_is_longer_than_the_object_is_fetched_anew(settings: Settings, version: Version) -> None:
    assert fetch_bytes("s3://bkt/in/pic.png", settings, CONTENT + b"more", version=version) == CONTENT


def test_a_large_object_is_refused(settings: Settings) -> None:
    assert fetch_bytes("s3://bkt/in/pic.png", settings, max_bytes=len(CONTENT)) == CONTENT
    with pytest.raises(TooLarge, match="MAX_INPUT_SIZE_MB"):
        fetch_bytes("s3://bkt/in/pic.png", settings, max_bytes=len(CONTENT) - 1)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("s3://bkt/none.png", "s3://bkt/none.png cannot be fetched: it does not exist."),
        ("s3://none-such/a.png", "s3://none-such/a.png cannot be fetched: the bucket does not exist."),
        ("s3://bkt", "s3://bkt/ is not a valid S3 URL; it has to be s3://bucket/key."),
        ("s3:///a.png", "s3:///a.png is not a valid S3 URL; it has to be s3://bucket/key."),
        ("s3://b!/a.png", "s3://b!/a.png cannot be fetched: the bucket or the key is not a valid one."),
    ],
)
def test_what_cannot_be_fetched_is_named(settings: Settings, url: str, sentence: str) -> None:
    with pytest.raises(InputUnavailable) as refusal:
        fetch_bytes(url, settings)
    assert refusal.value.message == sentence


@pytest.mark.parametrize("prefix", ["p1/", "", "/lead/", "a b/ä#?%20+&=/", "p"])
def test_a_key_is_the_prefix_and_the_name_as_they_are(settings: Settings, bucket: Any, prefix: str) -> None:
    """As in the reference's recordings: no slash is added or taken away."""
    url = stored(S3Upload(bucket="bkt", prefix=prefix), settings, content=prefix.encode() + b"content")
    assert url == f"s3://bkt/{prefix}s1_Flux_00001_.png"
    assert fetch_bytes(url, settings) == prefix.encode() + b"content"
    found = bucket.get_object(Bucket="bkt", Key=f"{prefix}s1_Flux_00001_.png")
    with found["Body"] as body:
        assert body.read() == prefix.encode() + b"content"
    assert (found["ContentType"], found["Metadata"]) == ("image/png", {})


def test_a_large_file_is_uploaded_in_parts(settings: Settings, bucket: Any) -> None:
    content = bytes(20 << 20)
    stored(S3Upload(bucket="bkt", prefix="large/"), settings, content=content)
    head = bucket.head_object(Bucket="bkt", Key="large/s1_Flux_00001_.png")
    assert (head["ContentLength"], head["ContentType"]) == (len(content), "image/png")
    assert head["ETag"].endswith('-3"')


def test_an_upload_that_fails_is_said_in_one_sentence(settings: Settings) -> None:
    for content in (b"small", bytes(20 << 20)):
        with pytest.raises(DeliveryError) as failure:
            stored(S3Upload(bucket="none-such", prefix="p/"), settings, "a.png", content)
        assert failure.value.message == "The upload to s3://none-such/p/a.png failed: the bucket does not exist."


def test_without_any_credentials_nothing_is_tried(endpoint: str) -> None:
    upload, settings = S3Upload(bucket="bkt"), Settings(aws_endpoint_url=endpoint)
    with pytest.raises(BadRequest, match=r"AWS_ACCESS_KEY_ID.*`credentials`"):
        store_for_upload(upload, settings).check(upload, lambda _url: None)
    with pytest.raises(BadRequest, match="AWS_ACCESS_KEY_ID"):
        fetch_bytes("s3://bkt/in/pic.png", settings)


def test_half_of_the_credentials_are_none(endpoint: str) -> None:
    upload, settings = S3Upload(bucket="bkt"), Settings(aws_endpoint_url=endpoint, aws_access_key_id="key")
    with pytest.raises(BadRequest, match="AWS_SECRET_ACCESS_KEY"):
        store_for_upload(upload, settings).check(upload, lambda _url: None)


def test_credentials_are_found_where_botocore_looks(
    endpoint: str, bucket: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("[default]\naws_access_key_id = key\naws_secret_access_key = s3cret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "file"))
    upload, settings = (
        S3Upload(bucket="bkt", prefix="found/"),
        Settings(aws_endpoint_url=endpoint, aws_region="eu-north-1"),
    )
    store_for_upload(upload, settings).check(upload, lambda _url: None)
    assert stored(upload, settings) == "s3://bkt/found/s1_Flux_00001_.png"


def test_the_caller_s_credentials_are_asked_for_by_the_target_s_url(settings: Settings) -> None:
    asked: list[str] = []
    upload = S3Upload(bucket="bkt", prefix="p/")
    store_for_upload(upload, settings).check(upload, lambda url: asked.append(url))
    store_for_upload(upload, settings).store(
        upload, "a.png", io.BytesIO(b"x"), size=1, mime_type="image/png", auth_for=lambda url: asked.append(url)
    )
    assert asked == ["s3://bkt/p/", "s3://bkt/p/a.png"]


def store_of(answer: Any) -> Starlette:
    """An S3 store that gives one answer to everything."""
    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "PUT", "POST", "HEAD"])])


def test_the_caller_s_keys_endpoint_and_region_win() -> None:
    seen: list[Request] = []

    async def answer(request: Request) -> Response:
        await request.body()
        seen.append(request)
        return Response(b"theirs" if request.method == "GET" else b"")

    operators = Settings.from_environ({**KEYS, "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "ALLOW_PRIVATE_URLS": "true"})
    with served(store_of(answer)) as url:
        auth = caller(url, region="mars-north-1", session_token="token")
        assert fetch_bytes("s3://bkt/a b.png", operators, auth=auth) == b"theirs"
        stored(S3Upload(bucket="bkt"), operators, auth=auth)
    for request in seen:
        assert "Credential=callers/" in request.headers["authorization"]
        assert "/mars-north-1/s3/" in request.headers["authorization"]
        assert request.headers["x-amz-security-token"] == "token"
    assert [request.url.path for request in seen] == ["/bkt/a b.png", "/bkt/s1_Flux_00001_.png"]


def test_a_private_endpoint_of_the_caller_s_is_refused(endpoint: str) -> None:
    settings, upload = Settings.from_environ(KEYS), S3Upload(bucket="bkt")
    with pytest.raises(ForbiddenUrl):
        fetch_bytes("s3://bkt/in/pic.png", settings, auth=caller(endpoint))
    with pytest.raises(ForbiddenUrl):
        store_for_upload(upload, settings).check(upload, lambda _url: caller(endpoint))


def test_a_name_that_leads_to_a_private_address_the_second_time_is_refused(
    endpoint: str, bucket: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at the endpoint is no guard: who owns its name answers the next question about it differently."""
    answers = [("93.184.215.14", 80)]

    def found(host: str, port: int, *_more: object, **_options: object) -> list[Any]:
        address = answers.pop() if answers else ("127.0.0.1", port)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    port = endpoint.rpartition(":")[2]
    with pytest.raises(ForbiddenUrl):
        fetch_bytes("s3://bkt/in/pic.png", Settings.from_environ(KEYS), auth=caller(f"http://example.com:{port}"))
    assert not answers


def test_the_operator_s_private_endpoint_is_used_by_a_caller_s_keys(endpoint: str, bucket: object) -> None:
    settings = Settings.from_environ({**KEYS, "AWS_ENDPOINT_URL": endpoint})
    assert fetch_bytes("s3://bkt/in/pic.png", settings, auth=caller()) == CONTENT


def test_access_that_is_denied_is_named(tmp_path: Path) -> None:
    async def answer(_request: Request) -> Response:
        return Response("<Error><Code>AccessDenied</Code><Message>s3cret</Message></Error>", 403)

    with served(store_of(answer)) as url:
        settings = Settings.from_environ({**KEYS, "AWS_ENDPOINT_URL": url})
        with pytest.raises(InputUnavailable) as refusal:
            fetch_bytes("s3://bkt/a.png", settings)
        with pytest.raises(DeliveryError) as failure:
            stored(S3Upload(bucket="bkt"), settings, "a.png")
        partial = Version(tmp_path / "version")
        partial.keep('"it"')
        with pytest.raises(InputUnavailable, match="access denied"):  # a HEAD has no body to say it
            fetch_bytes("s3://bkt/a.png", settings, b"partial", version=partial)
    assert refusal.value.message == "s3://bkt/a.png cannot be fetched: access denied."
    assert failure.value.message == "The upload to s3://bkt/a.png failed: access denied."


def test_a_passing_failure_is_passed_over() -> None:
    answers = [503, 500]

    async def answer(request: Request) -> Response:
        await request.body()
        return Response(status_code=answers.pop() if answers else 200)

    with served(store_of(answer)) as url:
        settings = Settings.from_environ({**KEYS, "AWS_ENDPOINT_URL": url})
        assert stored(S3Upload(bucket="bkt"), settings, "a.png") == "s3://bkt/a.png"


@pytest.mark.parametrize(
    ("sent", "timeout_s", "says"), [(4, 10, "the connection broke off"), (1000, 0.8, "it took too long")]
)
def test_a_body_that_breaks_off_or_trickles_is_an_error(sent: int, timeout_s: float, says: str) -> None:
    async def answer(_request: Request) -> Response:
        async def one_by_one() -> AsyncIterator[bytes]:
            for _ in range(sent):
                yield b"x"
                await asyncio.sleep(0.05)

        return StreamingResponse(one_by_one(), headers={"Content-Length": "1000"})

    with served(store_of(answer)) as url, pytest.raises(InputUnavailable, match=says):
        fetch_bytes("s3://bkt/a.png", Settings.from_environ({**KEYS, "AWS_ENDPOINT_URL": url}), timeout_s=timeout_s)


def test_no_connection_is_named_without_addresses() -> None:
    settings = Settings.from_environ({**KEYS, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
    with pytest.raises(InputUnavailable) as refusal:
        fetch_bytes("s3://bkt/a.png", settings)
    assert refusal.value.message == "s3://bkt/a.png cannot be fetched: no connection."
