"""Files behind http and https URLs, and uploads by PUT."""

import io
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from handler import Settings
from handler.errors import BadRequest, DeliveryError, ForbiddenUrl, InputUnavailable, TooLarge
from handler.schemas.credentials import Auth, BasicAuth, BearerAuth, HeaderAuth, QueryAuth, S3Auth
from handler.schemas.uploads import HttpUpload
from handler.storage import Version, store_for_upload, store_for_url
from tests.support.files import Files
from tests.support.storage import fetch_bytes

SETTINGS = Settings(allow_private_urls=True)
BEARER = BearerAuth.model_validate({"type": "bearer", "token": "s3cret"})
BASIC = BasicAuth.model_validate({"type": "basic", "username": "me", "password": "s3cret"})
HEADER = HeaderAuth.model_validate({"type": "header", "header_name": "X-Key", "header_value": "s3cret"})
QUERY = QueryAuth.model_validate({"type": "query", "query_param": "sig", "query_value": "s3c/ret="})


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Files, Files]]:
    with ExitStack() as stack:
        one, other = (stack.enter_context(Files(tmp_path_factory.mktemp("files")).running()) for _ in range(2))
        yield one, other


@pytest.fixture
def files(servers: tuple[Files, Files]) -> Files:
    for server in servers:
        server.seen.clear()
        server.bodies.clear()
        server.statuses.clear()
    return servers[0]


@pytest.fixture
def other(servers: tuple[Files, Files], files: Files) -> Files:
    return servers[1]


def fetched(url: str, partial: bytes = b"", *, settings: Settings = SETTINGS, **options: Any) -> bytes:
    return fetch_bytes(url, settings, partial, **{"timeout_s": 10, **options})


@pytest.fixture
def version(files: Files, tmp_path: Path) -> Version:
    """That of the server's /file."""
    kept = Version(tmp_path / "version")
    fetched(files.url + "/file", version=kept)
    assert str(kept.known()).startswith('"')
    return kept


def stored(
    url_prefix: str,
    filename: str = "a.png",
    content: bytes = b"content",
    *,
    auth: Auth | None = None,
    settings: Settings = SETTINGS,
) -> str:
    upload = HttpUpload(url_prefix=url_prefix)
    return store_for_upload(upload, settings).store(
        upload, filename, io.BytesIO(content), size=len(content), mime_type="image/png", auth_for=lambda _url: auth
    )


def shows_secrets(request: Request) -> bool:
    return any(secret in f"{request.headers} {request.url}" for secret in ("s3c", "bWU6czNjcmV0"))


def test_a_file_is_fetched_whole(files: Files) -> None:
    assert fetched(files.url + "/file") == files.content


@pytest.mark.parametrize(
    ("auth", "name", "value"),
    [
        (BEARER, "authorization", "Bearer s3cret"),
        (BASIC, "authorization", "Basic bWU6czNjcmV0"),
        (HEADER, "x-key", "s3cret"),
    ],
)
def test_credentials_are_shown_in_a_header(files: Files, auth: Auth, name: str, value: str) -> None:
    assert fetched(files.url + "/file", auth=auth) == files.content
    assert files.last.headers[name] == value


def test_credentials_are_shown_behind_the_query(files: Files) -> None:
    assert fetched(files.url + "/file?a=b%2Fc&d=", auth=QUERY) == files.content
    assert files.last.url.query == "a=b%2Fc&d=&sig=s3c%2Fret%3D"


def test_user_and_password_of_the_url_become_a_header(files: Files) -> None:
    assert fetched(files.url.replace("//", "//me:s3%63ret@") + "/file") == files.content
    assert files.last.headers["authorization"] == "Basic bWU6czNjcmV0"


def test_s3_keys_are_not_shown_to_a_web_server(files: Files) -> None:
    auth = S3Auth.model_validate({"type": "s3", "access_key_id": "key", "secret_access_key": "s3cret"})
    assert fetched(files.url + "/file", auth=auth) == files.content
    assert "s3cret" not in str(files.last.headers)


def with_header(hosts: str) -> Settings:
    environ = {"HTTP_AUTH_HEADER_NAME": "X-Key", "HTTP_AUTH_HEADER_VALUE": "s3cret", "HTTP_AUTH_HOSTS": hosts}
    return Settings.from_environ({**environ, "ALLOW_PRIVATE_URLS": "true"})


def test_the_operator_s_header_goes_to_the_operator_s_hosts(files: Files, other: Files) -> None:
    here = files.url.removeprefix("http://")
    for hosts in ("127.0.0.1", f"example.com, {here}"):
        assert fetched(f"{files.url}/file", settings=with_header(hosts)) == files.content
        assert files.last.headers["x-key"] == "s3cret"
    for hosts in ("", "example.com", "127.0.0.1:1"):
        fetched(f"{files.url}/file", settings=with_header(hosts))
        assert "x-key" not in files.last.headers
    fetched(f"{files.url}/to?url={other.url}/file", settings=with_header(here))
    assert "x-key" not in other.last.headers


@pytest.mark.parametrize("auth", [BEARER, BASIC, HEADER, QUERY], ids=lambda auth: auth.type)
def test_credentials_do_not_follow_a_redirect_to_another_server(files: Files, other: Files, auth: Auth) -> None:
    assert fetched(f"{files.url}/to?url={other.url}/file", auth=auth) == other.content
    assert shows_secrets(files.last)
    assert not shows_secrets(other.last)


def test_credentials_do_not_come_back_with_a_redirect(files: Files, other: Files) -> None:
    """Who is redirected to chooses the next address: it must not be able to use the credentials for one of its own."""
    assert fetched(f"{files.url}/to?url={other.url}/to?url={files.url}/file", auth=BEARER) == files.content
    assert "authorization" not in files.last.headers


def test_credentials_follow_a_redirect_on_the_same_server(files: Files) -> None:
    assert fetched(f"{files.url}/to?url=/file", auth=QUERY) == files.content
    assert files.last.url.query == "sig=s3c%2Fret%3D"


def test_a_circle_of_redirects_ends(files: Files) -> None:
    with pytest.raises(InputUnavailable, match="too many redirects"):
        fetched(f"{files.url}/to?url=")
    assert len(files.seen) == 6


@pytest.mark.parametrize("path", ["/file", "/whole", "/shifted"])
def test_a_begun_file_is_completed_whatever_the_server_makes_of_ranges(
    files: Files, version: Version, path: str
) -> None:
    assert fetched(files.url + path, files.content[:1000], version=version) == files.content


def test_only_the_rest_of_a_begun_file_is_asked_for(files: Files, version: Version) -> None:
    # Not what the server has, so that it shows where each byte is from.
    assert fetched(files.url + "/file", b"x" * 1000, version=version) == b"x" * 1000 + files.content[1000:]
    assert files.last.headers["range"] == "bytes=1000-"
    assert files.last.headers["if-range"] == version.known()


def test_a_complete_file_is_left_alone(files: Files, version: Version) -> None:
    partial = b"x" * len(files.content)
    assert fetched(files.url + "/file", partial, version=version) == partial


def test_a_file_that_is_longer_than_the_server_s_is_fetched_anew(files: Files, version: Version) -> None:
    assert fetched(files.url + "/file", files.content + b"more", version=version) == files.content


def test_a_begun_file_of_which_no_version_is_known_is_begun_anew(files: Files, tmp_path: Path) -> None:
    assert fetched(files.url + "/file", b"x" * 1000) == files.content
    assert fetched(files.url + "/file", b"x" * 1000, version=Version(tmp_path / "none")) == files.content
    assert all("range" not in request.headers for request in files.seen)


def test_a_begun_file_of_another_version_is_begun_anew(files: Files, version: Version) -> None:
    known = version.known()
    version.keep('"another"')
    assert fetched(files.url + "/file", b"x" * 1000, version=version) == files.content
    assert version.known() == known


def test_a_truncated_body_is_an_error_and_what_came_can_be_gone_on_from(files: Files, version: Version) -> None:
    file = io.BytesIO()
    with pytest.raises(InputUnavailable, match="the connection broke off"):
        store_for_url(files.url, SETTINGS).fetch(f"{files.url}/truncated", file, max_bytes=None)
    assert file.getvalue() == files.content[: len(files.content) // 2]
    assert fetched(f"{files.url}/file", file.getvalue(), version=version) == files.content


def test_the_cap_counts_what_the_file_holds_already(files: Files, version: Version) -> None:
    size = len(files.content)
    assert len(fetched(files.url + "/file", b"x" * 1000, version=version, max_bytes=size)) == size
    with pytest.raises(TooLarge, match="MAX_INPUT_SIZE_MB"):
        fetched(files.url + "/file", b"x" * 1000, version=version, max_bytes=size - 1)


def test_a_trickle_ends_at_the_deadline(files: Files) -> None:
    with pytest.raises(InputUnavailable, match="it took too long"):
        fetched(files.url + "/trickle", timeout_s=0.5)


def test_a_refusal_shows_neither_query_nor_password(files: Files) -> None:
    url = files.url.replace("//", "//me:s3cret@") + "/unauthorized?sig=s3cret"
    with pytest.raises(InputUnavailable) as refusal:
        fetched(url)
    assert refusal.value.message == f"{files.url}/unauthorized answered 401 Unauthorized."


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/x?sig=s3cret", "http://u:s3cret@[::1/x", "http://h:99999/x?s3cret"]
)
def test_a_failure_shows_neither_query_nor_password(url: str) -> None:
    with pytest.raises(InputUnavailable) as refusal:
        fetched(url)
    assert "s3cret" not in refusal.value.message


def test_what_is_no_url_is_named() -> None:
    with pytest.raises(InputUnavailable, match=r"http://h:99999/x cannot be fetched: it is not a valid URL\."):
        fetched("http://h:99999/x")


@pytest.mark.parametrize("token", ["s3cret\r\nX: y", "s3cret€"])
def test_credentials_that_fit_in_no_header_are_not_repeated(files: Files, token: str) -> None:
    auth = BearerAuth.model_validate({"type": "bearer", "token": token})
    with pytest.raises(InputUnavailable, match="characters that a header cannot hold") as refusal:
        fetched(files.url + "/file", auth=auth)
    assert "s3cret" not in refusal.value.message


def test_private_addresses_are_refused_for_uploads_as_well() -> None:
    upload, settings = HttpUpload(url_prefix="http://localhost:9/up"), Settings()
    with pytest.raises(ForbiddenUrl):
        store_for_upload(upload, settings).check(upload, lambda _url: None)
    with pytest.raises(ForbiddenUrl):
        stored("http://localhost:9/up", settings=settings)


def test_a_prefix_that_is_no_url_is_refused_before_anything_runs() -> None:
    upload = HttpUpload(url_prefix="http://h:99999/up")
    with pytest.raises(BadRequest, match="not a valid URL"):
        store_for_upload(upload, SETTINGS).check(upload, lambda _url: None)


@pytest.mark.parametrize("prefix", ["/up", "/up/"])
def test_an_upload_is_put_under_the_prefix(files: Files, prefix: str) -> None:
    assert stored(files.url + prefix, "h1_Flux_00001_.png") == f"{files.url}/up/h1_Flux_00001_.png"
    assert files.bodies == [b"content"]
    assert files.last.headers["content-type"] == "image/png"
    assert files.last.headers["content-length"] == "7"


def test_a_name_is_quoted_and_a_query_stays_behind_it_unseen(files: Files) -> None:
    url = stored(files.url + "/up?sv=1&sig=s3cret", "ä b#(1).png")
    assert url == f"{files.url}/up/%C3%A4%20b%23(1).png"
    assert files.last.path_params["name"] == "ä b#(1).png"
    assert files.last.url.query == "sv=1&sig=s3cret"


def test_an_upload_shows_its_credentials(files: Files) -> None:
    stored(files.url + "/up", auth=BEARER)
    assert files.last.headers["authorization"] == "Bearer s3cret"
    stored(files.url.replace("//", "//me:s3cret@") + "/up")
    assert files.last.headers["authorization"] == "Basic bWU6czNjcmV0"


def test_an_empty_file_can_be_uploaded(files: Files) -> None:
    stored(files.url + "/up", content=b"")
    assert (files.bodies, files.last.headers["content-length"]) == ([b""], "0")


def test_an_upload_is_tried_again_from_its_beginning(files: Files) -> None:
    files.statuses[:] = [500, 429, 200]
    stored(files.url + "/up")
    assert files.bodies == [b"content"] * 3


@pytest.mark.parametrize(("status", "tries"), [(410, 1), (401, 1), (503, 4)])
def test_an_upload_is_given_up(files: Files, status: int, tries: int) -> None:
    files.statuses[:] = [status] * 10
    with pytest.raises(DeliveryError) as failure:
        stored(files.url + "/up?sig=s3cret")
    assert failure.value.message == f"{files.url}/up/a.png answered {status} to the upload."
    assert len(files.bodies) == tries


def test_an_upload_does_not_follow_redirects(files: Files, other: Files) -> None:
    with pytest.raises(DeliveryError, match="answered 307"):
        stored(f"{files.url}/to?url={other.url}/up/a.png", auth=BEARER)
    assert not other.seen


def test_an_upload_to_nowhere_fails_without_its_secrets() -> None:
    with pytest.raises(DeliveryError) as failure:
        stored("http://me:s3cret@127.0.0.1:1/up?sig=s3cret")
    assert failure.value.message == "http://127.0.0.1:1/up/a.png did not take the upload: no connection."
