"""Output files: announced by ComfyUI, read, put in order, described."""

import dataclasses
import io
import mimetypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from handler.comfyui import ComfyClient
from handler.errors import OutputError
from handler.graphs import Graph, describe_node, title
from handler.jobs import images
from handler.schemas import ConvertOutput, OutputEntry

_OWN_TYPES = {".webp": "image/webp", ".avif": "image/avif", ".flac": "audio/flac", ".opus": "audio/ogg"}


@dataclass(frozen=True)
class Output:
    """One output with its content: a file on this disk, the bytes of one, or a text in UTF-8 (then filename is None)."""

    node_id: str
    filename: str | None
    content: bytes | Path
    mime_type: str

    @property
    def kind(self) -> str:
        if self.filename is None:
            return "text"
        main = self.mime_type.partition("/")[0]
        return main if main in ("image", "video", "audio") else "file"

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def open(self) -> BinaryIO:
        """The content as a stream: a large file does not pass through memory as a whole. Raises OutputError."""
        try:
            return io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content.open("rb")
        except OSError as exc:
            raise OutputError(f"The output {self.filename!r} cannot be read: {exc.strerror}.") from exc

    def read(self) -> bytes:
        with self.open() as stream:
            return stream.read()


@dataclass(frozen=True)
class _Announced:
    """A file as the history names it. `type` is the folder: output, temp or input."""

    node_id: str
    filename: str
    subfolder: str
    type: str


def read_outputs(
    outputs: Mapping[str, Any], graph: Graph, comfy: ComfyClient, *, output_dir: Path, folder: str
) -> list[Output]:
    """All outputs of a finished prompt in graph order, then in the node's own.

    `outputs` is the history's: node id to ui. A file is taken from `output_dir` when it is on this disk, else from ComfyUI
    over HTTP. Files under the job's `folder` are named relative to it. Raises OutputError for a file that cannot be read.
    Previews, files in ComfyUI's temp folder, do not count.
    """
    found: list[Output] = []
    for node_id in graph:
        ui = outputs.get(node_id) or {}
        found += [_file(one, graph, comfy, output_dir, folder) for one in _files(node_id, ui) if one.type == "output"]
        found += [Output(node_id, None, text.encode(errors="replace"), "text/plain") for text in _texts(ui)]
    return found


def convert_outputs(outputs: list[Output], target: ConvertOutput) -> list[Output]:
    """The outputs with the images among them in the format of the request. Raises OutputError."""
    return [_convert(output, target) if output.kind == "image" else output for output in outputs]


def describe_output(output: Output, graph: Graph) -> OutputEntry:
    node = graph[output.node_id]
    picture = images.identify(output.read()) if output.kind == "image" else None
    return OutputEntry(
        filename=output.filename,
        node_id=output.node_id,
        class_type=node["class_type"],
        title=title(node) or node["class_type"],
        kind=output.kind,
        mime_type=output.mime_type,
        size=output.size,
        width=picture.width if picture else None,
        height=picture.height if picture else None,
        text=output.read().decode() if output.filename is None else None,
    )


def _files(node_id: str, ui: Mapping[str, Any]) -> Iterator[_Announced]:
    """Every entry of every key that names a file: images, gifs, audio, latents, 3d, whatever a node calls it."""
    for entries in ui.values():
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and isinstance(entry.get("filename"), str):
                yield _Announced(
                    node_id, entry["filename"], str(entry.get("subfolder") or ""), str(entry.get("type") or "output")
                )


def _texts(ui: Mapping[str, Any]) -> list[str]:
    texts = ui.get("text") or []
    return [str(text) for text in ([texts] if isinstance(texts, str) else texts)]


def _file(one: _Announced, graph: Graph, comfy: ComfyClient, output_dir: Path, folder: str) -> Output:
    path = output_dir / one.subfolder / one.filename
    content: Path | bytes | None = path if _is_under(one.subfolder, folder) and _is_inside(path, output_dir) else None
    if content is None:
        content = comfy.view(filename=one.filename, subfolder=one.subfolder, kind=one.type)
    if content is None:
        node = describe_node(one.node_id, graph.get(one.node_id))
        raise OutputError(f"The output {one.filename!r} of {node} cannot be read.", location=f"prompt.{one.node_id}")
    # The folder is the job's own; what the caller asked for begins below it.
    subfolder = one.subfolder.removeprefix(folder).strip("/") if _is_under(one.subfolder, folder) else one.subfolder
    name = f"{subfolder}/{one.filename}" if subfolder else one.filename
    return Output(one.node_id, name, content, _mime_type(one.filename))


def _is_under(subfolder: str, folder: str) -> bool:
    return subfolder == folder or subfolder.startswith(f"{folder}/")


def _is_inside(path: Path, root: Path) -> bool:
    """Whether it is a file on this disk, inside the folder: a node may name any path."""
    return path.resolve().is_relative_to(root.resolve()) and path.is_file()


def _mime_type(filename: str) -> str:
    ending = Path(filename).suffix.lower()
    return _OWN_TYPES.get(ending) or mimetypes.guess_type(filename)[0] or "application/octet-stream"


def _convert(output: Output, target: ConvertOutput) -> Output:
    assert output.filename is not None  # only texts have none, and they are not images
    try:
        content = images.convert(output.read(), target)
    except OutputError as exc:
        raise OutputError(f"{output.filename}: {exc.message}", location=f"prompt.{output.node_id}") from exc
    name = str(Path(output.filename).with_suffix(images.extension(target)))
    return dataclasses.replace(output, filename=name, content=content, mime_type=_mime_type(name))
