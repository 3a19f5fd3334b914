"""Blobs of Azure Storage, and uploads to a container, with azurite."""

import io
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from handler import Settings
from handler.errors import BadRequest, DeliveryError, InputUnavailable, TooLarge
from handler.schemas.credentials import Auth, QueryAuth
from handler.schemas.uploads import AzureUpload
from handler.storage import Version, store_for_upload, store_for_url
from tests.support.azurite import ACCOUNT, KEY, azurite
from tests.support.storage import fetch_bytes

CONTENT = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with azurite(tmp_path_factory.mktemp("azurite")) as url:
        yield url


@pytest.fixture(scope="module")
def container(endpoint: str) -> Iterator[Any]:
    """The container `cont` as somebody else sees it, with one blob."""
    from azure.storage.blob import BlobServiceClient

    credential = {"account_name": ACCOUNT, "account_key": KEY}
    with BlobServiceClient(endpoint, credential=credential) as service:
        made = service.create_container("cont")
        made.upload_blob("in/a pic.png", CONTENT)
        yield made


def signature(write: bool = False) -> str:
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    allowed = ContainerSasPermissions(read=True, write=write, create=write)
    until = datetime.now(UTC) + timedelta(hours=1)
    signed: str = generate_container_sas(ACCOUNT, "cont", account_key=KEY, permission=allowed, expiry=until)
    return signed


@pytest.fixture
def settings(endpoint: str, container: object) -> Settings:
    string = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={endpoint};"
    return Settings.from_environ({"AZURE_STORAGE_CONNECTION_STRING": string})


@pytest.fixture
def signed(endpoint: str, container: object) -> Settings:
    string = f"BlobEndpoint={endpoint};SharedAccessSignature={signature(write=True)}"
    return Settings.from_environ({"AZURE_STORAGE_CONNECTION_STRING": string})


def query(text: str) -> Auth:
    name, _, value = text.partition("=")
    return QueryAuth.model_validate({"type": "query", "query_param": name, "query_value": value})


def stored(
    upload: AzureUpload,
    settings: Settings,
    content: bytes = b"content",
    *,
    auth: Auth | None = None,
    filename: str = "a1_Flux_00001_.png",
) -> str:
    file = io.BytesIO(content)
    url = store_for_upload(upload, settings).store(
        upload, filename, file, size=len(content), mime_type="image/png", auth_for=lambda _url: auth
    )
    assert not file.closed
    return url


def test_a_blob_is_fetched_with_the_account_s_key_or_signature(
    settings: Settings, signed: Settings, endpoint: str
) -> None:
    for configured in (settings, signed):
        assert fetch_bytes(f"{endpoint}/cont/in/a%20pic.png", configured) == CONTENT


def test_a_begun_blob_is_completed(settings: Settings, endpoint: str, tmp_path: Path) -> None:
    """Azure does not know If-Range, so that the version is told by what it sends."""
    partial, url, version = b"x" * 1000, f"{endpoint}/cont/in/a%20pic.png", Version(tmp_path / "version")
    fetch_bytes(url, settings, version=version)
    assert fetch_bytes(url, settings, partial, version=version) == partial + CONTENT[1000:]
    with pytest.raises(TooLarge):
        fetch_bytes(url, settings, partial, version=version, max_bytes=len(CONTENT) - 1)
    version.keep('"another"')
    assert fetch_bytes(url, settings, partial, version=version) == CONTENT


def test_a_blob_is_fetched_with_the_caller_s_signature(endpoint: str, container: object) -> None:
    """The account is known, its key is not. The last part alone, quoted or not, or the whole may be in `credentials`."""
    settings = Settings.from_environ({"AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint={endpoint}"})
    url, whole = f"{endpoint}/cont/in/a%20pic.png", signature()
    start, _, last = whole.rpartition("&")
    assert last.startswith("sig=")
    assert fetch_bytes(f"{url}?{whole}", settings) == CONTENT
    assert fetch_bytes(url, settings, auth=query(whole)) == CONTENT
    assert fetch_bytes(f"{url}?{start}", settings, auth=query(last)) == CONTENT
    with pytest.raises(InputUnavailable, match="answered 4"):
        fetch_bytes(url, settings)


def test_a_refusal_does_not_show_the_signature(settings: Settings, endpoint: str) -> None:
    with pytest.raises(InputUnavailable) as refusal:
        fetch_bytes(f"{endpoint}/cont/none.png", settings)
    assert refusal.value.message.startswith(f"{endpoint}/cont/none.png answered 404 ")
    assert "sig" not in refusal.value.message


@pytest.mark.parametrize("prefix", ["p/", "", "ä b#?/"])
def test_an_upload_s_name_is_the_prefix_and_the_file_s(
    settings: Settings, endpoint: str, container: Any, prefix: str
) -> None:
    url = stored(AzureUpload(container="cont", blob_prefix=prefix), settings, prefix.encode() + b"content")
    blob = container.get_blob_client(f"{prefix}a1_Flux_00001_.png")
    assert blob.download_blob().readall() == prefix.encode() + b"content"
    assert blob.get_blob_properties().content_settings.content_type == "image/png"
    assert url == blob.url
    assert fetch_bytes(url, settings) == prefix.encode() + b"content"


def test_the_url_of_an_upload_is_the_reference_s(settings: Settings, endpoint: str) -> None:
    assert stored(AzureUpload(container="cont"), settings) == f"{endpoint}/cont/a1_Flux_00001_.png"


def test_a_large_file_is_uploaded_in_blocks(settings: Settings, container: Any) -> None:
    content = bytes(20 << 20)
    stored(AzureUpload(container="cont"), settings, content, filename="large")
    assert container.get_blob_client("large").get_blob_properties().size == len(content)


def test_signatures_upload_and_are_not_shown(signed: Settings, endpoint: str) -> None:
    url = f"{endpoint}/cont/a1_Flux_00001_.png"
    assert stored(AzureUpload(container="cont"), signed) == url
    account = Settings.from_environ({"AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint={endpoint}"})
    assert stored(AzureUpload(container="cont"), account, auth=query(signature(write=True))) == url


def test_an_upload_that_fails_is_said_in_one_sentence(settings: Settings, endpoint: str) -> None:
    with pytest.raises(DeliveryError) as failure:
        stored(AzureUpload(container="none"), settings)
    sentence = "failed: the container none does not exist."
    assert failure.value.message == f"The upload to {endpoint}/none/a1_Flux_00001_.png {sentence}"
    with pytest.raises(DeliveryError, match="access denied"):
        stored(AzureUpload(container="cont"), settings, auth=query(signature()))


def test_no_connection_is_said_in_one_sentence() -> None:
    string = f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint=http://127.0.0.1:1/{ACCOUNT}"
    settings = Settings.from_environ({"AZURE_STORAGE_CONNECTION_STRING": string})
    with pytest.raises(DeliveryError, match=r"failed: no connection\.$"):
        stored(AzureUpload(container="cont"), settings)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, "AZURE_STORAGE_CONNECTION_STRING"),
        ({}, "AZURE_STORAGE_ACCOUNT"),
        ({"AZURE_STORAGE_CONNECTION_STRING": "nonsense"}, "AZURE_STORAGE_CONNECTION_STRING"),
        ({"AZURE_STORAGE_ACCOUNT": "acc"}, "AZURE_STORAGE_KEY"),
        ({"AZURE_STORAGE_ACCOUNT": "acc"}, "AZURE_STORAGE_SAS_TOKEN"),
    ],
)
def test_what_is_not_configured_is_named_before_anything_runs(environ: dict[str, str], named: str) -> None:
    upload, settings = AzureUpload(container="cont"), Settings.from_environ(environ)
    with pytest.raises(BadRequest, match=named):
        store_for_upload(upload, settings).check(upload, lambda _url: None)


def test_what_is_configured_passes(settings: Settings, signed: Settings) -> None:
    upload = AzureUpload(container="cont")
    account = {"AZURE_STORAGE_ACCOUNT": "acc"}
    by_key = Settings.from_environ({**account, "AZURE_STORAGE_KEY": KEY})
    by_signature = Settings.from_environ({**account, "AZURE_STORAGE_SAS_TOKEN": "?sv=1&sig=x"})
    for configured in (settings, signed, by_key, by_signature):
        store_for_upload(upload, configured).check(upload, lambda _url: None)


def test_the_extra_is_named_when_it_is_not_installed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.storage.blob", None)
    upload = AzureUpload(container="cont")
    with pytest.raises(BadRequest, match=r"install comfyui-handler\[azure\]"):
        store_for_upload(upload, settings).check(upload, lambda _url: None)


def test_other_accounts_blobs_are_fetched_as_files_of_the_web() -> None:
    url = "https://other.blob.core.windows.net/cont/a.png"
    settings = Settings.from_environ({"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_KEY": KEY})
    assert type(store_for_url(url, settings)).__name__ == "AzureStorage"
    assert type(store_for_url("http://127.0.0.1:1/cont/a.png", settings)).__name__ == "HttpStorage"
