"""What callers send and get, as pydantic models without I/O. Imports only the ground and handler.graphs."""

from handler.schemas.conversion import ConvertJpeg, ConvertOutput, ConvertPng, ConvertWebp, JpegOptions, WebpOptions
from handler.schemas.credentials import (
    Auth,
    BasicAuth,
    BearerAuth,
    Credential,
    HeaderAuth,
    QueryAuth,
    S3Auth,
    find_auth,
    matches_pattern,
)
from handler.schemas.event import Request, parse_event
from handler.schemas.request import Options, PromptRequest, WorkflowRequest, webhook_url
from handler.schemas.result import ComfyExecution, OutputEntry, Result, Stats
from handler.schemas.uploads import AzureUpload, BucketUpload, HfUpload, HttpUpload, S3Upload, Upload
from handler.schemas.worker_comfyui import WorkerRequest, WorkerResult

__all__ = [
    "Auth",
    "AzureUpload",
    "BasicAuth",
    "BearerAuth",
    "BucketUpload",
    "ComfyExecution",
    "ConvertJpeg",
    "ConvertOutput",
    "ConvertPng",
    "ConvertWebp",
    "Credential",
    "HeaderAuth",
    "HfUpload",
    "HttpUpload",
    "JpegOptions",
    "Options",
    "OutputEntry",
    "PromptRequest",
    "QueryAuth",
    "Request",
    "Result",
    "S3Auth",
    "S3Upload",
    "Stats",
    "Upload",
    "WebpOptions",
    "WorkerRequest",
    "WorkerResult",
    "WorkflowRequest",
    "find_auth",
    "matches_pattern",
    "parse_event",
    "webhook_url",
]
