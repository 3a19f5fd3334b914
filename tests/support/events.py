"""Events for the handler, and what becomes of them."""

from typing import Any

import pytest

from handler import HandlerError, Service, Settings
from handler.pipeline import run


def refused(service: Service, given: Any, **beside: Any) -> HandlerError:
    """The error that an event with this input ends in."""
    with pytest.raises(HandlerError) as caught:
        run({"id": "job-1", "input": given, **beside}, service)
    return caught.value


def service_with(service: Service, **environ: str) -> Service:
    """The service with some of its variables set, and the rest as it is."""
    given = Settings.from_environ({**environ, "COMFYUI_URL": service.settings.comfy_url})
    fields = {name: getattr(given, name) for name in given.model_fields_set - {"comfyui_url", "system_meta"}}
    folders = {"input_dir", "output_dir", "model_dir", "comfy_home"}
    return Service.load(
        service.settings.model_copy(update={name: fields[name] for name in fields if name not in folders})
    )


def bucket_environ(s3: Any, **more: str) -> dict[str, str]:
    """The variables of worker-comfyui's bucket, in a store of the tests."""
    keys = {"BUCKET_ACCESS_KEY_ID": "key", "BUCKET_SECRET_ACCESS_KEY": "s3cr3t"}
    return {"BUCKET_ENDPOINT_URL": s3.meta.endpoint_url, **keys, **more}
