"""The answer to a job, as pydantic models."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema


class NodeTime(BaseModel):
    """When a node ran, in ms since the epoch, and for how many ms."""

    start: int
    end: int | None = None
    duration: int | None = None


class ComfyExecution(BaseModel):
    """When ComfyUI ran the prompt. Cached nodes are not listed."""

    start: int = Field(description="In ms since the epoch.")
    end: int = Field(description="In ms since the epoch.")
    duration: int = Field(description="In ms.")
    nodes: dict[str, NodeTime] = Field(description="Node id to its times.")

    @classmethod
    def of(
        cls, messages: Iterable[tuple[str, Any]], started: Mapping[str, int], ended: Mapping[str, int]
    ) -> "ComfyExecution":
        """Build it from a history entry's messages, and from the nodes' times in ms that the websocket reported."""
        stamps = [data["timestamp"] for _, data in messages if "timestamp" in data]
        start, end = min(stamps, default=0), max(stamps, default=0)
        nodes = {node: _node_time(start, ended.get(node)) for node, start in started.items()}
        return cls(start=start, end=end, duration=end - start, nodes=nodes)


def _node_time(start: int, end: int | None) -> NodeTime:
    return NodeTime(start=start, end=end, duration=None if end is None else end - start)


class Stats(BaseModel):
    """The duration of a job's steps, in ms."""

    comfy_execution: ComfyExecution
    preprocess_time: float = Field(description="Validation of the request, and fetching its inputs.")
    queue_time: float = Field(description="Waiting for a place in ComfyUI's queue.")
    comfy_round_trip_time: float = Field(description="From the prompt's submission to its end.")
    postprocess_time: float = Field(description="Reading and converting the outputs.")
    upload_time: float = Field(description="Uploading or encoding the outputs.")
    total_time: float


class OutputEntry(BaseModel):
    """The description of one output."""

    filename: str | None = Field(description="None for a text.")
    node_id: str
    class_type: str
    title: str
    kind: str = Field(description="image, video, audio, text or file.")
    mime_type: str
    size: int = Field(description="In bytes.")
    width: int | None = None
    height: int | None = None
    text: str | None = None


class Result(BaseModel):
    """The answer to a job: the request's own fields, and these."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(description="The request's id.")
    prompt: dict[str, Any] = Field(description="The graph as it ran.")
    images: list[str] = Field(description="Every output file: base64, or its URL after an upload.")
    filenames: list[str] = Field(description="The names of the files, in the same order.")
    outputs: list[OutputEntry] = Field(description="Every output in the order of the graph, texts included.")
    stats: Stats
    errors: list[str] | None = Field(None, description="Errors that did not fail the job.")
    # only for dialects whose answer contains it
    uploaded: SkipJsonSchema[bool] = Field(False, exclude=True, description="Whether `images` holds URLs.")

    @property
    def files(self) -> list[tuple[OutputEntry, str]]:
        """Every output file, and its base64 or URL."""
        return list(zip((output for output in self.outputs if output.filename), self.images, strict=True))

    def answer(self) -> dict[str, Any]:
        """The answer as JSON values."""
        return self.model_dump(exclude_none=True)
