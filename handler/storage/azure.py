"""Blobs of Azure Storage, and uploads to a container."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO
from urllib.parse import parse_qs, quote, unquote, urlsplit, urlunsplit

import requests
from pydantic import SecretStr

from handler.errors import BadRequest, DeliveryError
from handler.net import deadline, new_session
from handler.schemas import Auth, AzureUpload, QueryAuth, Upload
from handler.settings import Settings
from handler.storage.auth import AuthFor
from handler.storage.download import check_http_url, download
from handler.storage.transfer import CONNECT_TIMEOUT_S, IDLE_TIMEOUT_S, Limits, Version
from handler.urls import describe_url, origin, redact_url

_BLOBS = ".blob.core.windows.net"
_BLOCK = 8 << 20
# How long a signature for reading is valid where no deadline is nearer.
_MAX_READ_S = 24 * 3600


class AzureStorage:
    """Blobs are fetched like any file behind a URL: to read one takes a signature in the URL at most."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def matches(self, url: str) -> bool:
        with contextlib.suppress(ValueError):
            scheme, host, _ = origin(url)
            if scheme == "https" and host.endswith(_BLOBS):
                return True
        account = _account(self._settings)
        return account is not None and account.owns(url)

    def check_url(self, url: str, auth: Auth | None) -> None:
        account = _account(self._settings)
        own = account is not None and account.owns(url)
        check_http_url(url, auth=auth, settings=self._settings, trusted=own)

    def fetch(
        self,
        url: str,
        file: BinaryIO,
        *,
        version: Version | None = None,
        auth: Auth | None = None,
        max_bytes: int | None,
    ) -> None:
        limits = Limits(describe_url(url), max_bytes)
        account = _account(self._settings)
        own = account if account is not None and account.owns(url) else None
        if isinstance(auth, QueryAuth):
            url, auth = _add_signature(url, _sas(auth)), None
        elif own is not None and auth is None and "sig" not in parse_qs(urlsplit(url).query):
            url = _add_signature(url, own.sign_for_reading(url))
        trusted = [own.endpoint] if own else []
        download(url, file, version=version, auth=auth, limits=limits, settings=self._settings, trusted=trusted)

    def takes(self, upload: Upload) -> bool:
        return isinstance(upload, AzureUpload)

    def check(self, upload: Upload, auth_for: AuthFor) -> None:
        assert isinstance(upload, AzureUpload)
        self._blob(upload, "", auth_for)

    def store(
        self, upload: Upload, filename: str, content: BinaryIO, *, size: int, mime_type: str, auth_for: AuthFor
    ) -> str:
        assert isinstance(upload, AzureUpload)
        blob = self._blob(upload, filename, auth_for)
        from azure.core.exceptions import AzureError
        from azure.storage.blob import ContentSettings

        url = redact_url(str(blob.url))
        content.seek(0)
        try:
            with blob:
                blob.upload_blob(
                    content,
                    length=size,
                    overwrite=True,
                    max_concurrency=1,
                    content_settings=ContentSettings(content_type=mime_type),
                )
        except (AzureError, OSError, ValueError) as exc:
            raise DeliveryError(f"The upload to {describe_url(url)} failed: {_reason(exc, upload.container)}.") from exc
        return url

    def _blob(self, upload: AzureUpload, filename: str, auth_for: AuthFor) -> Any:
        """A client for one blob. Raises BadRequest when something is not installed or not configured."""
        account = _account(self._settings)
        if account is None:
            raise BadRequest(
                "Azure Blob Storage is not configured: set AZURE_STORAGE_CONNECTION_STRING, "
                "or AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN."
            )
        name = upload.blob_prefix + filename
        auth = auth_for(f"{account.endpoint}/{upload.container}/{quote(name)}")
        sas = _sas(auth) if isinstance(auth, QueryAuth) else "" if account.key else account.sas
        if not (sas or account.key):
            raise BadRequest(
                "There are no credentials for Azure Blob Storage: set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, "
                "or send `credentials` of type query."
            )
        session = new_session(allow_private=True, proxies=self._settings.proxies)
        return _client(account, upload.container, name or "?", sas, session)


@dataclass(frozen=True)
class _Account:
    endpoint: str
    name: str
    key: str
    sas: str

    def owns(self, url: str) -> bool:
        """Whether a URL is one of this account's blobs, over the scheme of the account's endpoint."""
        try:
            same = origin(url) == origin(self.endpoint)
        except ValueError:
            return False
        return same and urlsplit(url).path.startswith(f"{urlsplit(self.endpoint).path}/")

    def sign_for_reading(self, url: str) -> str:
        """A signature that lets a blob be read until the deadline; empty when there is nothing to sign with."""
        if not self.key:
            return self.sas
        with _needs_library():
            from azure.core.exceptions import AzureError
            from azure.storage.blob import BlobSasPermissions, generate_blob_sas
        path = urlsplit(url).path.removeprefix(f"{urlsplit(self.endpoint).path}/")
        container, _, blob = path.partition("/")
        # Clocks differ.
        expiry = datetime.now(UTC) + timedelta(seconds=min(deadline.left_s(), _MAX_READ_S), minutes=15)
        names, may = (self.name, unquote(container), unquote(blob)), BlobSasPermissions(read=True)
        try:
            signature: str = generate_blob_sas(*names, account_key=self.key, permission=may, expiry=expiry)
        except (AzureError, ValueError) as exc:
            raise BadRequest("The key of the Azure storage account is not valid (AZURE_STORAGE_KEY).") from exc
        return signature


def _account(settings: Settings) -> _Account | None:
    """The configured account, if there is one."""
    connection_string = settings.azure_storage_connection_string
    if connection_string is None:
        parts = {
            "AccountName": settings.azure_storage_account or "",
            "AccountKey": _plain(settings.azure_storage_key),
            "SharedAccessSignature": _plain(settings.azure_storage_sas_token),
        }
    else:
        parts = dict(pair.strip().partition("=")[::2] for pair in _plain(connection_string).split(";"))
    name = parts.get("AccountName", "")
    scheme, suffix = parts.get("DefaultEndpointsProtocol", "https"), parts.get("EndpointSuffix", "core.windows.net")
    endpoint = parts.get("BlobEndpoint") or (name and f"{scheme}://{name}.blob.{suffix}")
    key, sas = parts.get("AccountKey", ""), parts.get("SharedAccessSignature", "")
    return _Account(endpoint.rstrip("/"), name, key, sas.removeprefix("?")) if endpoint else None


def _client(account: _Account, container: str, name: str, sas: str, session: requests.Session) -> Any:
    """A client for one blob, which signs with the account's key when there is no signature."""
    with _needs_library():
        from azure.core.credentials import AzureSasCredential
        from azure.core.pipeline.transport import RequestsTransport
        from azure.storage.blob import BlobClient, ExponentialRetry
    transport = RequestsTransport(session=session, connection_timeout=CONNECT_TIMEOUT_S, read_timeout=IDLE_TIMEOUT_S)
    transport.sleep = deadline.sleep
    # The name: where the endpoint is an IP address, the client cannot take it from the URL.
    key = {"account_name": account.name, "account_key": account.key}
    try:
        return BlobClient(
            account.endpoint,
            container,
            name,
            credential=AzureSasCredential(sas) if sas else key,
            transport=transport,
            # The library's own policy starts with 15 seconds.
            retry_policy=ExponentialRetry(initial_backoff=0, increment_base=2, retry_total=2, random_jitter_range=1),
            max_single_put_size=_BLOCK,
            max_block_size=_BLOCK,
        )
    except ValueError as exc:
        raise BadRequest("The settings for Azure Blob Storage cannot be used (AZURE_STORAGE_...).") from exc


@contextlib.contextmanager
def _needs_library() -> Iterator[None]:
    try:
        yield
    except ImportError as exc:
        raise BadRequest("Azure Blob Storage is not supported here: install comfyui-handler[azure].") from exc


def _plain(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret else ""


def _sas(auth: QueryAuth) -> str:
    """A signature from the caller: one parameter of it, or the whole with its first parameter's name apart.

    People have such signatures quoted and unquoted; both work.
    """
    return f"{auth.query_param}={quote(unquote(auth.query_value.get_secret_value()), safe='&=:/,')}"


def _add_signature(url: str, signature: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, signature)))))


def _reason(exc: Exception, container: str) -> str:
    """Why an upload failed, for the caller: the texts of these exceptions hold the account's addresses."""
    code, status = getattr(exc, "error_code", None), getattr(exc, "status_code", None)
    if code == "ContainerNotFound":
        return f"the container {container} does not exist"
    if status in (401, 403):
        return "access denied"
    if status is not None:
        return f"Azure answered {status} {code or ''}".rstrip()
    return "no connection"
