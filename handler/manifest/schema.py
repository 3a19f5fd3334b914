"""The manifest as a file: what it may contain, and reading it."""

import difflib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from handler.manifest import custom_nodes
from handler.models import folders, is_url, name_from_url
from handler.schemas import Auth
from handler.settings import BadSettings, Settings
from handler.urls import redact_url


class _Strict(BaseModel):
    """Unknown keys are errors: a misspelt one must not silently leave out a model."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, given: Any) -> Any:
        for key in given if isinstance(given, dict) else ():
            if key not in cls.model_fields:
                near = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                hint = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(cls.model_fields)}"
                raise ValueError(f"`{key}` is not known; {hint}")
        return given


class ManifestModel(_Strict):
    """A model to download: to `local_path`, or into `folder` under MODEL_DIR as `filename` (default: the URL's)."""

    url: str
    local_path: str = ""
    folder: str = ""
    filename: str = ""
    sha256: str | None = Field(None, pattern=r"^[0-9A-Fa-f]{64}$")
    auth: Auth | None = None

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        if not is_url(url):
            raise ValueError(f"{redact_url(url)!r} is not a URL that can be fetched")
        return url

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        if bool(self.local_path) == bool(self.folder) or (self.local_path and self.filename):
            raise ValueError("it needs a `local_path`, or a `folder` and perhaps a `filename`")
        return self

    @model_validator(mode="after")
    def _check_file_path(self, info: ValidationInfo) -> Self:
        """An existing folder would count as a model that is there already."""
        nameless = self.local_path and self.local_path.rpartition("/")[2] in ("", ".", "..")
        if nameless or (info.context and folders.is_folder(self.path(info.context))):
            path = self.local_path or f"{self.folder}/{self.filename or name_from_url(self.url)}"
            raise ValueError(
                f"{path!r} is a folder; it has to be the path of a file, such as models/checkpoints/name.safetensors"
            )
        return self

    def path(self, settings: Settings) -> Path:
        """Where the file goes. A relative `local_path` starts in COMFY_HOME."""
        if self.local_path:
            return settings.comfy_home / self.local_path
        return settings.model_dir / self.folder / (self.filename or name_from_url(self.url))


def _empty_for_null(value: Any) -> Any:
    # In YAML a key is null when there are only comments below it.
    return [] if value is None else value


Names = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_empty_for_null)]
ManifestModels = Annotated[list[ManifestModel], BeforeValidator(_empty_for_null)]


class ModelsOfManifest(_Strict):
    before_start: ManifestModels = []
    after_start: ManifestModels = []


class Manifest(_Strict):
    """Everything is optional, and installed in this order."""

    apt: Names = []
    pip: Names = []
    custom_nodes: Names = []
    models: Annotated[ModelsOfManifest, BeforeValidator(lambda value: value or {})] = ModelsOfManifest()

    @field_validator("apt")
    @classmethod
    def _check_packages(cls, names: list[str]) -> list[str]:
        for name in names:
            if name.startswith("-") or any(char.isspace() for char in name):
                raise ValueError(f"{name!r} is not a valid package name")
        return names

    @field_validator("custom_nodes")
    @classmethod
    def _check_nodes(cls, names: list[str]) -> list[str]:
        for name in names:
            custom_nodes.parse_source(name)
        return names


def load_manifest(settings: Settings) -> Manifest | None:
    """The manifest of MANIFEST_JSON or MANIFEST. Raises BadSettings with one line that names the place in it."""
    if settings.manifest_json:
        return _parse(settings.manifest_json, json.loads, "MANIFEST_JSON", settings)
    return (
        read_manifest(settings.manifest, settings, f"MANIFEST={str(settings.manifest)!r}")
        if settings.manifest
        else None
    )


def read_manifest(file: Path, settings: Settings, name: str = "") -> Manifest:
    """The manifest in a file, which error messages call `name`. Raises BadSettings."""
    name = name or str(file)
    parsers: dict[str, Callable[[str], Any]] = {
        ".json": json.loads,
        ".yaml": yaml.safe_load,
        ".yml": yaml.safe_load,
    }
    if file.suffix.lower() not in parsers:
        raise BadSettings(f"{name}: its name must end with .yaml, .yml or .json")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text in UTF-8"
        raise BadSettings(f"{name}: {reason}") from exc
    return _parse(text, parsers[file.suffix.lower()], name, settings)


def _parse(text: str, parse: Callable[[str], Any], name: str, settings: Settings) -> Manifest:
    try:
        return Manifest.model_validate(parse(text) or {}, strict=True, context=settings)
    except yaml.MarkedYAMLError as exc:
        # The error's own text quotes the line, which may contain a token.
        place = exc.problem_mark or exc.context_mark
        where = f"line {place.line + 1}, column {place.column + 1}: " if place else ""
        raise BadSettings(f"{name}: {where}{', '.join(filter(None, (exc.context, exc.problem)))}") from exc
    except (json.JSONDecodeError, yaml.YAMLError) as exc:
        raise BadSettings(f"{name}: {' '.join(str(exc).split())}") from exc
    except ValidationError as exc:
        faults = [
            (".".join(map(str, error["loc"])), error.get("ctx", {}).get("error", error["msg"]))
            for error in exc.errors()
        ]
        raise BadSettings(
            f"{name}: " + "; ".join(f"{place}: {text}" if place else str(text) for place, text in faults)
        ) from exc
