"""The RunPod serverless worker: `python -m handler`. The only module that imports runpod."""

import asyncio
import atexit
import logging
import sys
from typing import Any

import runpod

from handler import logs, pipeline
from handler.errors import HandlerError
from handler.host import Host
from handler.service import Service
from handler.settings import BadSettings, Settings
from handler.workflows import BadWorkflow

logger = logging.getLogger(__name__)


def main() -> int:
    """Bring ComfyUI up, warm, and give the jobs of RunPod's queue (or of --test_input) to the handler."""
    try:
        settings = Settings.from_environ()
        logs.configure(settings.log_level)
        host = Host(settings)
        atexit.register(host.stop)
        host.start()
    except (BadSettings, BadWorkflow, HandlerError) as exc:
        print(f"cannot start: {exc}", file=sys.stderr)
        return 1
    runpod.serverless.start({"handler": _Adapter(host.service)})
    return 0


class _Adapter:
    """A job of the SDK to an event, and an error to what the SDK takes for one."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        # In a thread: the SDK's heartbeat, job fetching and stop signals go on meanwhile.
        return await asyncio.to_thread(self._answer, job)

    def _answer(self, job: dict[str, Any]) -> dict[str, Any]:
        try:
            return pipeline.run(job, self._service)
        except HandlerError as exc:
            logger.info("job %s: %s: %s", job.get("id"), exc.code, exc.message)
            return exc.answer()
        except Exception:
            # The SDK would send the traceback and the host's name to the caller.
            logger.exception("job %s: a bug", job.get("id"))
            return {"code": HandlerError.code, "error": "Internal error; the worker's log says more."}


if __name__ == "__main__":
    sys.exit(main())
