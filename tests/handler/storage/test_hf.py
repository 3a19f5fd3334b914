"""Files of the Hugging Face hub, and uploads to a repository."""

import io
import sys
from collections.abc import Iterator

import pytest

from handler import Settings
from handler.errors import BadRequest, DeliveryError, InputUnavailable
from handler.schemas.credentials import Auth, BearerAuth
from handler.schemas.uploads import HfUpload
from handler.storage import hf, store_for_upload
from tests.support.hub import LARGE, TOKEN, Hub
from tests.support.storage import fetch_bytes

NAME = "f1_Flux_00001_.png"
THEIRS = BearerAuth.model_validate({"type": "bearer", "token": TOKEN})


@pytest.fixture(scope="module")
def running() -> Iterator[Hub]:
    with Hub().running() as hub:
        yield hub


@pytest.fixture
def hub(running: Hub) -> Hub:
    for holder in (running.files, running.large, running.seen, running.statuses):
        holder.clear()
    return running


def settings_for(hub: Hub, **more: str) -> Settings:
    return Settings.from_environ({"HF_ENDPOINT": hub.url, "ALLOW_PRIVATE_URLS": "true", "HF_TOKEN": TOKEN, **more})


def stored(upload: HfUpload, settings: Settings, content: bytes = b"content", auth: Auth | None = None) -> str:
    file = io.BytesIO(content)
    store = store_for_upload(upload, settings)
    store.check(upload, lambda _url: auth)
    url = store.store(upload, NAME, file, size=len(content), mime_type="image/png", auth_for=lambda _url: auth)
    assert not file.closed
    return url


@pytest.mark.parametrize(
    ("upload", "path"),
    [
        (HfUpload(repo="a/b", repo_type="dataset", directory="x"), f"datasets/a/b/resolve/main/x/{NAME}"),
        (HfUpload(repo="a/b"), f"a/b/resolve/main/{NAME}"),
        (HfUpload(repo="a/b", directory="/x/y/"), f"a/b/resolve/main/x/y/{NAME}"),
        (HfUpload(repo="a/b", revision="refs/pr/1", directory="x y"), f"a/b/resolve/refs%2Fpr%2F1/x%20y/{NAME}"),
    ],
)
def test_an_upload_is_a_commit_to_the_repository(hub: Hub, upload: HfUpload, path: str) -> None:
    """The first URL is the reference's recording."""
    settings = settings_for(hub)
    url = stored(upload, settings)
    assert url == f"{hub.url}/{path}"
    directory = upload.directory.strip("/")
    kind = f"{upload.repo_type}s"
    path = f"{directory}/{NAME}" if directory else NAME
    assert hub.files == {(kind, "a/b", upload.revision, path): b"content"}


def test_the_default_url_is_the_hub_s() -> None:
    upload = HfUpload(repo="a/b", repo_type="dataset", directory="x")
    asked: list[str] = []
    with pytest.raises(BadRequest):
        store_for_upload(upload, Settings()).check(upload, lambda url: asked.append(url))
    assert asked == ["https://huggingface.co/datasets/a/b/resolve/main/x/"]


# huggingface_hub 2 gives its HTTP client a file in a way that the client would rather not have.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_large_file_is_uploaded_past_the_hub(hub: Hub) -> None:
    content = bytes(range(256)) * (LARGE // 100)
    stored(HfUpload(repo="a/b"), settings_for(hub), content)
    assert list(hub.files.values()) == [content]
    put = next(request for request in hub.seen if request.method == "PUT")
    assert "authorization" not in put.headers


def test_the_caller_s_token_wins(hub: Hub) -> None:
    stored(HfUpload(repo="a/b"), settings_for(hub, HF_TOKEN="wrong"), auth=THEIRS)
    assert list(hub.files.values()) == [b"content"]


def test_a_commit_is_repeated_while_others_commit(hub: Hub) -> None:
    hub.statuses[:] = [412, 409]
    stored(HfUpload(repo="a/b"), settings_for(hub))
    assert list(hub.files.values()) == [b"content"]


@pytest.mark.parametrize(
    ("repo", "token", "reason"),
    [("none/such", TOKEN, "there is no such repository or branch"), ("a/b", "s3cret", "access denied")],
)
def test_an_upload_that_fails_is_said_in_one_sentence(hub: Hub, repo: str, token: str, reason: str) -> None:
    with pytest.raises(DeliveryError) as failure:
        stored(HfUpload(repo=repo), settings_for(hub, HF_TOKEN=token))
    assert failure.value.message == f"The upload to {hub.url}/{repo}/resolve/main/{NAME} failed: {reason}."


@pytest.mark.parametrize("upload", [HfUpload(repo="a/b", directory="../x"), HfUpload(repo="a/b--c")])
def test_what_the_hub_never_takes_is_refused_before_anything_runs(hub: Hub, upload: HfUpload) -> None:
    with pytest.raises(BadRequest, match="`hf_upload`"):
        store_for_upload(upload, settings_for(hub)).check(upload, lambda _url: None)


def test_without_a_token_nothing_is_tried(hub: Hub) -> None:
    with pytest.raises(BadRequest, match="HF_TOKEN"):
        stored(HfUpload(repo="a/b"), settings_for(hub, HF_TOKEN=""))


def test_the_extra_is_named_when_it_is_not_installed(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    hf._library.cache_clear()
    with pytest.raises(BadRequest, match=r"install comfyui-handler\[hf\]"):
        stored(HfUpload(repo="a/b"), settings_for(hub))


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("hf://a/b/x/m.safetensors", ("models", "a/b", "main", "x/m.safetensors")),
        ("hf://models/a/b@v1/m.safetensors", ("models", "a/b", "v1", "m.safetensors")),
        ("hf://datasets/a/b@v1/x/p ä#.png", ("datasets", "a/b", "v1", "x/p ä#.png")),
    ],
)
def test_a_file_of_the_hub_is_fetched(hub: Hub, url: str, place: tuple[str, str, str, str]) -> None:
    hub.files[place] = b"content"
    assert fetch_bytes(url, settings_for(hub)) == b"content"


def test_the_token_goes_to_the_hub_alone(hub: Hub) -> None:
    hub.files["models", "a/b", "main", "m.safetensors"] = b"content"
    for settings, auth in ((settings_for(hub), None), (settings_for(hub, HF_TOKEN="wrong"), THEIRS)):
        hub.seen.clear()
        assert fetch_bytes(f"{hub.url}/a/b/resolve/main/m.safetensors", settings, auth=auth) == b"content"
        shown = [request.headers.get("authorization") for request in hub.seen]
        assert shown == [f"Bearer {TOKEN}", None]


def test_a_token_is_not_needed_to_ask_and_not_shown_to_others(hub: Hub) -> None:
    with pytest.raises(InputUnavailable, match="answered 401"):
        fetch_bytes("hf://a/b/m.safetensors", settings_for(hub, HF_TOKEN=""))
    hub.large["x"] = b"elsewhere"
    assert fetch_bytes(f"{hub.storage}/x", settings_for(hub)) == b"elsewhere"
    assert "authorization" not in hub.seen[-1].headers


@pytest.mark.parametrize("url", ["hf://a/b", "hf://a", "hf://datasets/a/b"])
def test_what_names_no_file_is_refused(hub: Hub, url: str) -> None:
    with pytest.raises(InputUnavailable, match="hf://owner/repository/path"):
        fetch_bytes(url, settings_for(hub))


def test_a_missing_file_is_named_as_it_was_asked_for(hub: Hub) -> None:
    with pytest.raises(InputUnavailable) as refusal:
        fetch_bytes("hf://a/b/none.png", settings_for(hub))
    assert refusal.value.message == "hf://a/b/none.png answered 404 Not Found."
