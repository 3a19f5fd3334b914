"""The error tree: what the handler raises, and what its adapters answer.

HandlerError
    BadRequest              the event cannot be run as it stands
        UnknownWorkflow
        InputUnavailable    an input could not be fetched or is not what the node takes
        ForbiddenUrl
        TooLarge
    ComfyError              ComfyUI refused, failed, or went away
        ComfyUnreachable
        ComfyCrashed
        PromptRejected      ComfyUI's validation said no
        PromptFailed        a node raised
            OutOfMemory
            GpuLost         the GPU or its driver failed: this ComfyUI will not work again
        PromptInterrupted
        PromptTimeout
    DiskFull                there is no room for the files of a request
    ServerStopped           the server ended before the prompt did
    OutputError             an output that ComfyUI announced cannot be read or converted
    DeliveryError           the outputs exist, an upload failed; they are kept, and named
        DeliveryTimeout     the job's time was over before they were uploaded
    ResultTooLarge          the answer would exceed the platform's limit
    InternalError           what a caller is told of a bug

What is not a HandlerError is a bug.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar


class HandlerError(Exception):
    """A failure with one sentence for the caller.

    `code` names the kind of failure, `location` the path in the request that is at fault, such as
    "prompt.6.inputs.image". `retryable` says that the same event may succeed later, unchanged.
    """

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, location: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.location = location

    def answer(self) -> dict[str, Any]:
        """The error as every adapter shows it, without an HTTP status."""
        answer: dict[str, Any] = {"code": self.code, "error": self.message}
        if self.location is not None:
            answer["location"] = self.location
        return answer


@contextmanager
def locate(location: str) -> Iterator[None]:
    """Say where in the request the fault is, for an error of the block that does not say it itself."""
    try:
        yield
    except HandlerError as exc:
        exc.location = exc.location or location
        raise


class BadRequest(HandlerError):
    code = "BAD_REQUEST"


class UnknownWorkflow(BadRequest):
    code = "UNKNOWN_WORKFLOW"


class InputUnavailable(BadRequest):
    code = "INPUT_UNAVAILABLE"


class ForbiddenUrl(BadRequest):
    code = "FORBIDDEN_URL"


class TooLarge(BadRequest):
    code = "TOO_LARGE"


class ComfyError(HandlerError):
    code = "COMFYUI_ERROR"


class ComfyUnreachable(ComfyError):
    code = "COMFYUI_UNREACHABLE"
    retryable = True


class ComfyCrashed(ComfyError):
    code = "COMFYUI_CRASHED"
    retryable = True


class PromptRejected(ComfyError):
    """ComfyUI's validation refused the graph. `node_errors` is ComfyUI's own table, node id to errors."""

    code = "PROMPT_REJECTED"

    def __init__(self, message: str, *, location: str | None = None, node_errors: dict[str, Any] | None = None) -> None:
        super().__init__(message, location=location)
        self.node_errors = node_errors or {}

    def answer(self) -> dict[str, Any]:
        answer = super().answer()
        if self.node_errors:
            answer["node_errors"] = self.node_errors
        return answer


class PromptFailed(ComfyError):
    """A node raised while it ran."""

    code = "PROMPT_FAILED"

    def __init__(self, message: str, *, node_id: str, class_type: str, exception_type: str) -> None:
        super().__init__(message, location=f"prompt.{node_id}")
        self.node_id = node_id
        self.class_type = class_type
        self.exception_type = exception_type


class OutOfMemory(PromptFailed):
    code = "OUT_OF_MEMORY"
    retryable = True


class GpuLost(PromptFailed):
    """After a CUDA error all later ones of the same process fail as well."""

    retryable = True


class PromptInterrupted(ComfyError):
    code = "INTERRUPTED"


class PromptTimeout(ComfyError):
    code = "TIMEOUT"
    retryable = True


class DiskFull(HandlerError):
    code = "DISK_FULL"
    retryable = True


class ServerStopped(HandlerError):
    code = "SERVER_STOPPED"
    retryable = True

    def __init__(self) -> None:
        super().__init__("The server stopped before the prompt was finished.")


class OutputError(HandlerError):
    code = "OUTPUT_UNAVAILABLE"


class DeliveryError(HandlerError):
    code = "DELIVERY_FAILED"
    retryable = True


class DeliveryTimeout(DeliveryError):
    code = "TIMEOUT"


class ResultTooLarge(HandlerError):
    code = "RESULT_TOO_LARGE"


class InternalError(HandlerError):
    """What a caller is told of a bug; its traceback is in the log."""

    def __init__(self) -> None:
        super().__init__("Internal error; the server's log says more.")
