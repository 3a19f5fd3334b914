"""The settings. Only this module reads the environment."""

import difflib
import logging
import os
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

logger = logging.getLogger(__name__)

# The limit of all floats: Python's time-outs overflow not far above it.
_MAX = 1e9
_REPOSITORY = Path(__file__).resolve().parent.parent


class BadSettings(ValueError):
    """An environment variable is invalid. The message is one line that names it."""


class Settings(BaseModel):
    """One field per environment variable, which has the field's name in capitals.

    Variables that SaladTechnologies/comfyui-api has as well have its meaning and default, except for CMD.
    """

    model_config = ConfigDict(frozen=True)

    cmd: str | None = Field(
        None,
        description="Command that starts ComfyUI. Unset: the stand-in ComfyUI. Empty: ComfyUI is already running.",
    )
    comfyui_url: str | None = Field(
        None,
        pattern=r"^https?://[^/]+/?$",
        description="URL of a running ComfyUI. It replaces CMD, DIRECT_ADDRESS and COMFYUI_PORT_HOST.",
    )
    direct_address: str = Field("127.0.0.1", min_length=1, description="Address of ComfyUI.")
    comfyui_port_host: int = Field(8188, ge=1, le=65535, description="Port of ComfyUI.")
    comfyui_inflight: int = Field(2, ge=1, description="How many prompts may be in ComfyUI's own queue at once.")
    comfy_home: Path = Field(Path("/opt/ComfyUI"), description="ComfyUI's folder. For the stand-in: a temporary one.")
    input_dir: Path = Field(Path("/opt/ComfyUI/input"), description="ComfyUI's input folder.")
    output_dir: Path = Field(Path("/opt/ComfyUI/output"), description="ComfyUI's output folder.")
    model_dir: Path = Field(Path("/opt/ComfyUI/models"), description="ComfyUI's models folder.")
    network_volumes: str = Field(
        "/runpod-volume,/workspace",
        description="More folders, comma separated, where ComfyUI looks for models. Missing ones are skipped.",
    )
    network_volume_debug: bool = Field(False, description="Log the models on the volumes at the start.")
    startup_check_interval_s: float = Field(1, gt=0, description="Seconds between two checks of a starting ComfyUI.")
    startup_check_max_tries: int = Field(10, ge=1, description="Number of such checks before the start fails.")
    always_restart_comfyui: bool = Field(
        False, description="Restart ComfyUI when it exits. Otherwise the server exits as well."
    )
    comfyui_hang_timeout_s: float = Field(
        60, ge=0, description="Seconds without any response after which ComfyUI is killed. 0: never."
    )
    warmup_prompt_url: str | None = Field(
        None, pattern=r"^https?://", description="URL of a warm-up graph. WARMUP_PROMPT_FILE takes precedence."
    )
    warmup_prompt_file: Path | None = Field(
        None, description="Warm-up graph in API format, which runs once at the start."
    )
    workflow_dir: Path = Field(_REPOSITORY / "workflows", description="Folder of the workflow files.")
    prepend_filenames: bool = Field(
        True, description="File names are <id>_<filename_prefix>. False: <id> in place of the prefix."
    )
    host: str = Field("::", description="Address that the HTTP API listens on. :: includes IPv4.")
    port: int = Field(3000, ge=0, le=65535, description="Port that the HTTP API listens on. 0: any free port.")
    api_keys: SecretStr | None = Field(
        None,
        description="Keys of the HTTP API, comma separated. A request must have one of them. Unset: no key is needed.",
    )
    docs: bool = Field(True, description="Serve the documentation at /docs. With API_KEYS it needs a key as well.")
    log_level: Literal["trace", "debug", "info", "warn", "error", "fatal"] = Field("info", description="Log level.")
    markdown_schema_descriptions: bool = Field(
        True, description="Add a table of fields to the description of each workflow in /docs."
    )
    max_body_size_mb: float = Field(100, gt=0, description="Largest request body, in MB of 1024 x 1024 bytes.")
    body_timeout_s: float = Field(300, gt=0, description="Time limit for receiving a request body, in seconds.")
    max_input_size_mb: float = Field(100, gt=0, description="Largest input file, in MB of 1024 x 1024 bytes.")
    cancel_on_disconnect: bool = Field(
        False, description="End a request when its client disconnects, unless it has a webhook."
    )
    max_model_size_gb: float = Field(100, gt=0, description="Largest downloaded model, in GB of 1024^3 bytes.")
    max_queue_depth: int = Field(0, ge=0, description="Number of jobs from which on /ready answers 503. 0: no limit.")
    queue_limit: int = Field(
        0, ge=0, description="Number of jobs from which on a request is refused with 429. 0: no limit."
    )
    input_timeout_s: float = Field(60, gt=0, description="Time limit for fetching one input, in seconds.")
    upload_timeout_s: float = Field(600, gt=0, description="Time limit for uploading a job's outputs, in seconds.")
    prompt_timeout_s: float = Field(3600, gt=0, description="Time limit of a job, waiting included, in seconds.")
    max_result_size_mb: float | None = Field(
        None,
        ge=0,
        description="Largest answer as JSON, in MB of 1000 x 1000 bytes. 0: no limit. Default: 19 for the RunPod worker.",
    )
    shutdown_grace_s: float = Field(
        30, ge=0, description="Seconds that requests have to finish at a shutdown. The others end with SERVER_STOPPED."
    )
    allow_private_urls: bool = Field(
        False, description="Allow requests with URLs of loopback, private and link-local addresses."
    )
    http_proxy: str | None = Field(
        None, pattern=r"^https?://", description="Proxy for http URLs, but never for ComfyUI."
    )
    https_proxy: str | None = Field(
        None, pattern=r"^https?://", description="Proxy for https URLs. Default: HTTP_PROXY."
    )
    no_proxy: str = Field("", description="Hosts, comma separated, to reach without a proxy.")
    http_auth_header_name: str | None = Field(None, description="Name of a header for requests to HTTP_AUTH_HOSTS.")
    http_auth_header_value: SecretStr | None = Field(None, description="Value of that header.")
    http_auth_hosts: str = Field("", description="Hosts, comma separated, that get the header. Others never do.")
    aws_access_key_id: str | None = Field(None, description="Access key of the S3 store. Default: what botocore finds.")
    aws_secret_access_key: SecretStr | None = Field(None, description="Secret key of the S3 store.")
    aws_session_token: SecretStr | None = Field(None, description="Session token of temporary credentials.")
    aws_region: str | None = Field(None, description="Region of the S3 store.")
    aws_endpoint_url: str | None = Field(None, description="Endpoint of an S3-compatible store.")
    s3_addressing_style: Literal["auto", "path", "virtual"] = Field(
        "auto", description="Whether the bucket's name is in the path or the host name of URLs."
    )
    bucket_endpoint_url: str | None = Field(
        None,
        pattern=r"^https?://[^/]",
        description="Endpoint of the bucket for worker-comfyui's dialect and for large answers.",
    )
    bucket_access_key_id: str | None = Field(None, description="Access key of that bucket.")
    bucket_secret_access_key: SecretStr | None = Field(None, description="Secret key of that bucket.")
    bucket_name: str | None = Field(None, description="Name of that bucket. Default: month and year, such as 11-26.")
    s3_presign_expiry_s: int = Field(
        604_800, ge=1, le=604_800, description="Lifetime of the URLs of that bucket, in seconds."
    )
    azure_storage_connection_string: SecretStr | None = Field(
        None, description="Connection string of the Azure storage account."
    )
    azure_storage_account: str | None = Field(None, description="Name of the Azure storage account.")
    azure_storage_key: SecretStr | None = Field(None, description="Key of the Azure storage account.")
    azure_storage_sas_token: SecretStr | None = Field(None, description="SAS token for the Azure storage account.")
    hf_token: SecretStr | None = Field(None, description="Token for the Hugging Face hub.")
    hf_endpoint: str = Field("https://huggingface.co", description="Address of the Hugging Face hub.")
    comfy_org_api_key: SecretStr | None = Field(None, description="Comfy.org's key for API nodes.")
    runpod_concurrency: int = Field(1, ge=1, le=32, description="How many jobs a RunPod worker runs at once.")
    runpod_log_level: Literal["DEBUG", "INFO", "WARN", "ERROR"] = Field(
        "INFO", description="Log level of RunPod's SDK. DEBUG logs whole requests and answers."
    )
    refresh_worker: bool = Field(False, description="Let RunPod restart the worker after each job.")
    salad_metadata_url: str = Field(
        "http://169.254.169.254",
        pattern=r"^https?://",
        description="URL of Salad's metadata service, used only on Salad.",
    )
    webhook_secret: SecretStr | None = Field(
        None, description="Key that signs webhooks: base64, with or without whsec_. Unset: webhooks are not signed."
    )
    prompt_webhook_retries: int = Field(3, ge=0, description="How often a webhook is tried in a row.")
    system_webhook_url: str | None = Field(
        None, pattern=r"^https?://[^/]", description="URL that gets ComfyUI's messages and the storage events."
    )
    system_webhook_events: str = Field("", description="The events that it gets, comma separated, or all. Unset: none.")
    system_meta: dict[str, str] = Field(
        {}, description="Metadata of these events: SYSTEM_META_<name> becomes <name>. Salad's own variables are added."
    )
    cache_dir: Path = Field(
        Path.home() / ".cache" / "comfyui-handler", description="Folder for downloaded models and undelivered webhooks."
    )

    lru_cache_size_gb: float = Field(
        0,
        ge=0,
        description="Limit of downloaded models, in GB; above it the least recently used are removed. 0: no limit.",
    )
    manifest: Path | None = Field(
        None, description="YAML or JSON file with packages, custom nodes and models to install."
    )
    manifest_json: str | None = Field(None, description="The manifest as JSON text. It takes precedence over MANIFEST.")

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read a mapping, by default os.environ. An empty value counts as unset, except for CMD.

        Raises BadSettings. Logs unknown variables whose names are close to a known one.
        """
        environ = os.environ if environ is None else environ
        names = {field.upper(): field for field in cls.model_fields if field != "system_meta"}
        given: dict[str, Any] = {
            names[name]: value for name, value in environ.items() if name in names and (value or name == "CMD")
        }
        given["system_meta"] = _read_metadata(environ)
        for name in environ:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.88) if name not in names else []
            if near:
                logger.warning("%s is not a setting; did you mean %s?", name, near[0])
        try:
            return cls.model_validate(given)
        except ValidationError as exc:
            errors = [(str(error["loc"][0]).upper(), error["msg"]) for error in exc.errors()]
            raise BadSettings("; ".join(f"{_describe(name, environ)}: {text}" for name, text in errors)) from exc

    @field_validator("api_keys")
    @classmethod
    def _check_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().replace(",", "").strip():
            raise ValueError("it contains no key; leave it unset to need none")
        return value

    @field_validator("*")
    @classmethod
    def _check_maximum(cls, value: Any) -> Any:
        if isinstance(value, float) and not value <= _MAX:
            raise ValueError(f"at most {_MAX:,.0f} is possible")
        return value

    @field_validator("cmd")
    @classmethod
    def _check_command(cls, value: str | None) -> str | None:
        if value and not shlex.split(value):  # raises ValueError itself, for an unclosed quotation
            raise ValueError("it contains no command")
        return value

    @model_validator(mode="before")
    @classmethod
    def _derive_folders(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Derive INPUT_DIR, OUTPUT_DIR and MODEL_DIR from COMFY_HOME, which is a temporary folder for the stand-in."""
        given = dict(given)
        if given.get("cmd") is None and not given.get("comfyui_url") and "comfy_home" not in given:
            port = given.get("comfyui_port_host", cls.model_fields["comfyui_port_host"].default)
            given["comfy_home"] = Path(tempfile.gettempdir()) / f"comfyui-stand-in-{port}"
        home = Path(given.get("comfy_home", cls.model_fields["comfy_home"].default))
        return {"input_dir": home / "input", "output_dir": home / "output", "model_dir": home / "models", **given}

    @property
    def comfy_url(self) -> str:
        """ComfyUI's URL, without a slash at the end."""
        if self.comfyui_url:
            return self.comfyui_url.rstrip("/")
        host = f"[{self.direct_address}]" if ":" in self.direct_address else self.direct_address
        return f"http://{host}:{self.comfyui_port_host}"

    @property
    def proxies(self) -> dict[str, str]:
        """URL scheme to proxy, and `no_proxy`; empty without a proxy."""
        https = self.https_proxy or self.http_proxy
        found = {"http": self.http_proxy, "https": https, "no_proxy": self.no_proxy if https else None}
        return {kind: value for kind, value in found.items() if value}

    @property
    def starts_comfyui(self) -> bool:
        """Whether we start and stop ComfyUI."""
        return not self.comfyui_url and self.cmd != ""

    def env_for_comfyui(self) -> dict[str, str]:
        """The environment without our secrets, which custom nodes must not see. HF_TOKEN is kept, as they use it."""
        ours = {name.upper() for name, field in type(self).model_fields.items() if "SecretStr" in str(field.annotation)}
        return {name: value for name, value in os.environ.items() if name not in ours - {"HF_TOKEN"}}

    @property
    def on_salad(self) -> bool:
        return "salad_machine_id" in self.system_meta

    @property
    def startup_timeout_s(self) -> float:
        return self.startup_check_interval_s * self.startup_check_max_tries


_SALAD = ("ORGANIZATION", "PROJECT", "CONTAINER_GROUP")


def _read_metadata(environ: Mapping[str, str]) -> dict[str, str]:
    """SYSTEM_META_* and Salad's variables as metadata; the names of Salad's are in lower case."""
    given = {name.removeprefix("SYSTEM_META_"): environ[name] for name in environ if name.startswith("SYSTEM_META_")}
    salad = [f"SALAD_{what}_{part}" for what in _SALAD for part in ("NAME", "ID")]
    salad += ["SALAD_INSTANCE_ID", "SALAD_MACHINE_ID"]
    return given | {name.lower(): environ[name] for name in salad if environ.get(name)}


def _describe(name: str, environ: Mapping[str, str]) -> str:
    """A variable and its value, unless the value may contain a password."""
    value = environ.get(name, "")
    return name if "@" in value else f"{name}={value!r}"
