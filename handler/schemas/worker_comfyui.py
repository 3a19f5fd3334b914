"""The dialect of runpod-workers/worker-comfyui: its request and its answer."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from handler.graphs import Graph
from handler.schemas.request import Options, check_api_format
from handler.schemas.result import Result


class InputImage(BaseModel):
    """One of `images`: a file that the graph refers to by name."""

    model_config = ConfigDict(strict=True, frozen=True)

    name: str = Field(min_length=1, max_length=255)
    image: str = Field(min_length=1, description="Base64, a data URI or a URL.")


class WorkerResult(Result):
    """The answer. Its `images` contain all files, such as videos and audio, not only images."""

    def answer(self) -> dict[str, Any]:
        kind = "s3_url" if self.uploaded else "base64"
        texts = [
            {"node_id": output.node_id, "title": output.title, "text": output.text}
            for output in self.outputs
            if output.text is not None
        ]
        answer: dict[str, Any] = {
            "images": [{"filename": file.filename, "type": kind, "data": data} for file, data in self.files]
        }
        if not (answer["images"] or texts):
            answer["status"] = "success_no_images"
        return answer | ({"texts": texts} if texts else {}) | ({"errors": self.errors} if self.errors else {})


class WorkerRequest(Options):
    """A graph, and the images that it loads by name."""

    # Graphs that save nothing run as well; the answer is then `success_no_images`.
    needs_output: ClassVar[bool] = False
    uses_bucket: ClassVar[bool] = True
    result_type: ClassVar[type[Result]] = WorkerResult

    workflow: Graph = Field(description="A graph in ComfyUI's API format: node id to node.")
    images: list[InputImage] | None = Field(None, description="Images that the graph refers to by name.")

    @field_validator("workflow", mode="before")
    @classmethod
    def _api_format(cls, workflow: Any) -> Any:
        return check_api_format(workflow)

    @property
    def graph(self) -> Graph:
        return self.workflow

    @property
    def named_images(self) -> dict[str, str]:
        return {one.name: one.image for one in self.images or []}

    @property
    def file_stem(self) -> None:
        return None
