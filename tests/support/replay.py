"""Sends the requests of a recorded conversation to a live server and compares what comes back."""

import hashlib
import io
import json
import threading
import time
from collections.abc import Container, Mapping
from typing import Any

import requests
import websocket
from PIL import Image

from tests.support.replay_normal import History, comparable, folded, same
from tests.support.standin import Standin

Event = dict[str, Any]

DEADLINE = 20.0
# nodes of the recorded server that have another name here
RENAMED = {"StubSleep": "EmulatorSleep", "StubFail": "EmulatorFail"}
COMPARED_HEADERS = (
    "Content-Type",
    "Content-Disposition",
    "Accept-Ranges",
    "Content-Range",
)


class Difference(AssertionError):
    """The live server did not do what the recorded one did."""


class Client:
    """One websocket, read by a thread of its own, as fast as the server sends."""

    def __init__(self, url: str) -> None:
        self.frames: list[Any] = []
        self.close_code: int | None = None
        self.arrived = threading.Condition()
        self.socket = websocket.create_connection(url, timeout=DEADLINE)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def wait(self, count: int, name: str) -> None:
        """Until so many messages are there, repeated steps counted once; a closed socket has all that it will have."""

        def there() -> bool:
            return not self.reader.is_alive() or len(folded(self.frames, exactly=False)) >= count

        with self.arrived:
            if not self.arrived.wait_for(there, DEADLINE):
                last = [brief(frame) for frame in self.frames[-4:]]
                raise Difference(f"{name} still lacks one of {count} messages; the last are {last}")

    def close(self) -> None:
        if self.reader.is_alive():
            self.socket.send_close()
            self.reader.join(DEADLINE)
        self.socket.shutdown()

    def _read(self) -> None:
        while True:
            try:
                opcode, data = self.socket.recv_data()
            except (websocket.WebSocketException, OSError):
                return
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                self.close_code = int.from_bytes(data[:2], "big")
                return
            frame = json.loads(data) if opcode == websocket.ABNF.OPCODE_TEXT else bytes(data)
            with self.arrived:
                self.frames.append(frame)
                self.arrived.notify_all()


class Replay:
    """One conversation. Raises Difference at the first thing that is not as recorded."""

    def __init__(
        self, recording: dict[str, Any], server: Standin, deleted_files: Mapping[int, str], skipped: Container[str]
    ) -> None:
        text = json.dumps(recording, ensure_ascii=False)
        for old, new in RENAMED.items():
            text = text.replace(old, new)
        self.events: list[Event] = json.loads(text)["events"]
        self.server = server
        self.deleted_files = deleted_files
        self.skipped = skipped
        self.clients: dict[str, Client] = {}
        self.expected: dict[str, list[Any]] = {}
        # what the recorded server and the live one call the same thing
        self.theirs, self.ours = History("/opt/ComfyUI"), History(str(server.base))
        self.renamed: dict[str, str] = {}

    def run(self, *, exactly: bool = True, in_order: bool = True) -> None:
        """Send and compare everything.

        `exactly`: also how many steps were reported, which an interruption leaves to chance. `in_order`: also the place
        of the status messages among the others and their counts, which are chance where requests come while a prompt runs.
        """
        try:
            for number, event in sorted(enumerate(self.events), key=lambda pair: pair[1]["t"]):
                if number in self.deleted_files:
                    (self.server.base / self.deleted_files[number]).unlink()
                getattr(self, f"_{event['kind']}")(event)
            for name in self.expected:
                self._compare_frames(name, exactly=exactly, in_order=in_order)
        finally:
            for client in self.clients.values():
                client.close()

    def _ws_open(self, event: Event) -> None:
        self._catch_up()
        url = self.server.url.replace("http", "ws", 1) + event["url"]
        self.clients[event["conn"]] = Client(url)
        self.expected[event["conn"]] = []

    def _ws(self, event: Event) -> None:
        self.expected[event["conn"]].append(event["text"] if "text" in event else event["binary"])

    def _ws_send(self, event: Event) -> None:
        self._catch_up()
        data = event["data"]
        self.clients[event["conn"]].socket.send(data if isinstance(data, str) else json.dumps(data))

    def _ws_close(self, event: Event) -> None:
        self._catch_up()
        self.clients[event["conn"]].close()

    def _ws_closed_by_server(self, event: Event) -> None:
        code = self.clients[event["conn"]].close_code
        if code != event["code"]:
            raise Difference(f"closed with {code}, recorded {event['code']}")

    def _ws_ended(self, event: Event) -> None:
        """The recording client looked too late for a close frame."""

    def _http(self, event: Event) -> None:
        self._catch_up()
        request, recorded = event["request"], event["response"]
        if request["path"] in self.skipped:
            return
        deadline = time.monotonic() + DEADLINE
        while True:
            response = self._send(request)
            difference = self._answer_difference(request, recorded, response)
            # what a GET shows may still be on its way: prompts run at their own pace
            if difference is None or request["method"] != "GET" or time.monotonic() > deadline:
                break
            time.sleep(0.01)
        if difference is not None:
            raise Difference(f"{request['method']} {request['path']} {brief(request)}: {difference}")
        self._learn(recorded, response)

    def _catch_up(self) -> None:
        """Wait for what the recording client had received at this point, single steps aside."""
        for name, frames in self.expected.items():
            self.clients[name].wait(len(folded(frames, exactly=False)), name)

    def _send(self, request: dict[str, Any]) -> requests.Response:
        query = {name: self._live_file(value) for name, value in request.get("query", {}).items()}
        options: dict[str, Any] = {"params": query, "headers": self._headers(request)}
        if "multipart" in request:
            options["files"] = [(name, part(name, value)) for name, value in request["multipart"].items()]
        elif "body" in request:
            options["data"] = request["body"].encode()
        elif "json" in request:
            text = json.dumps(request["json"])
            for theirs, ours in self.renamed.items():
                text = text.replace(f'"{theirs}"', f'"{ours}"')
            options["data"] = text.encode()
            options["headers"]["Content-Type"] = "application/json"
        path = request["path"]
        for theirs, ours in self.renamed.items():
            path = path.replace(theirs, ours)
        return self.server.http.request(request["method"], self.server.url + path, timeout=30, **options)

    def _live_file(self, value: Any) -> Any:
        return self.ours.files.get(self.theirs.file(value), value) if isinstance(value, str) else value

    def _headers(self, request: dict[str, Any]) -> dict[str, str]:
        headers = {name: self.renamed.get(value, value) for name, value in request.get("headers", {}).items()}
        if "127.0.0.1:8288" in headers.get("Origin", ""):
            headers["Origin"] = self.server.url
        return headers

    def _answer_difference(
        self, request: dict[str, Any], recorded: dict[str, Any], live: requests.Response
    ) -> str | None:
        if live.status_code != recorded["status"]:
            return f"status {live.status_code}, recorded {recorded['status']}: {live.text[:300]}"
        for name in COMPARED_HEADERS:
            wanted = recorded["headers"].get(name)
            if name == "Content-Disposition" and wanted is not None:
                recorded_name = wanted.split('"')[1]
                wanted = wanted.replace(recorded_name, self._live_file(recorded_name))
            is_size = name == "Content-Range"
            if (wanted is None) != (name not in live.headers) or (not is_size and wanted != live.headers.get(name)):
                return f"{name}: {live.headers.get(name)}, recorded {wanted}"
        if "text" in recorded and live.text != recorded["text"]:
            return f"text {live.text!r}, recorded {recorded['text']!r}"
        if "json" not in recorded or recorded["json"] in ("left out", {"see": "object_info.json"}):
            return None
        theirs, ours = self.theirs.copy(), self.ours.copy()
        theirs.learn(recorded["json"])
        ours.learn(live.json())
        wanted, got = comparable(recorded["json"], theirs), comparable(live.json(), ours)
        return same(wanted, got, request["path"])

    def _learn(self, recorded: dict[str, Any], live: requests.Response) -> None:
        for header in ("Etag", "Last-Modified"):
            if header in recorded["headers"]:
                self.renamed[recorded["headers"][header]] = live.headers[header]
        if "json" not in recorded or not recorded["json"]:
            return
        self.theirs.learn(recorded["json"])
        self.ours.learn(live.json())
        if isinstance(recorded["json"], dict) and "prompt_id" in recorded["json"]:
            self.renamed[recorded["json"]["prompt_id"]] = live.json()["prompt_id"]

    def _compare_frames(self, name: str, *, exactly: bool, in_order: bool) -> None:
        wanted, got = self.expected[name], self.clients[name].frames
        if not any(isinstance(frame, dict) and frame.get("type") == "progress_state" for frame in wanted):
            got = [frame for frame in got if not (isinstance(frame, dict) and frame.get("type") == "progress_state")]
        for theirs, ours in ((self.theirs, wanted), (self.ours, got)):
            for frame in ours:
                theirs.learn(frame)
        wanted = folded([comparable(frame, self.theirs) for frame in wanted], exactly=exactly)
        got = folded([comparable(frame, self.ours) for frame in got], exactly=exactly)
        if not in_order:
            wanted, got = without_chance(wanted), without_chance(got)
        difference = same_sequence(wanted, got)
        if difference is not None:
            raise Difference(f"messages of {name}: {difference}")


def without_chance(frames: list[Any]) -> list[Any]:
    """The messages, and behind them how many were about the queue, and the last of these: each tells of the queue as it is
    in the moment of sending."""
    about_queue = [frame for frame in frames if frame.get("type") == "status"]
    others = [frame for frame in frames if frame.get("type") != "status"]
    return [*others, {"count": len(about_queue)}, *about_queue[-1:]]


def same_sequence(wanted: list[Any], got: list[Any]) -> str | None:
    for number, (theirs, ours) in enumerate(zip(wanted, got, strict=False)):
        difference = same(theirs, ours, f"no. {number}")
        if difference is not None:
            around = [brief(frame) for frame in got[max(0, number - 2) : number + 2]]
            return f"{difference}; around it: {around}"
    return None if len(wanted) == len(got) else f"{len(got)} messages, recorded {len(wanted)}"


def part(name: str, value: Any) -> Any:
    """A multipart field; a file gets bytes that stand for the recorded ones, which were not kept."""
    if isinstance(value, str):
        return (None, value)
    return (value["filename"], contents(value), value["content_type"])


def contents(file: dict[str, Any]) -> bytes:
    digest = hashlib.sha256(file["sha256"].encode()).digest()
    is_picture = file["filename"].endswith(".png") and 60 < file["length"] < 1000
    if not is_picture:
        return digest[:1] * int(file["length"])
    buffer = io.BytesIO()
    Image.new("RGBA", (64, 48), tuple(digest[:4])).save(buffer, "PNG")
    return buffer.getvalue()


def brief(value: Any) -> str:
    return repr(value)[:300]
