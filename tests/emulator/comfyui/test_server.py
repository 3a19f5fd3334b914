"""The stand-in's queue, cache, sockets, files over HTTP, and its life as a process."""

import concurrent.futures
import socket as sockets
import time
from pathlib import Path

import pytest
import requests
import websocket

from tests.support.standin import Standin
from tests.support.standin_graphs import (
    files,
    finished,
    message_of,
    messages_until_end,
    node,
    submitted,
    txt2img,
    viewed,
)

SLEEPING = {"1": node("EmulatorSleep", seconds=30.0), "2": node("PreviewImage", images=["1", 0])}


def says_goodbye(socket: websocket.WebSocket) -> bool:
    """Whether a close frame comes before the end of the connection."""
    try:
        while socket.recv_data_frame(control_frame=True)[0] != websocket.ABNF.OPCODE_CLOSE:
            continue
    except (websocket.WebSocketConnectionClosedException, ConnectionResetError):
        return False
    finally:
        socket.shutdown()
    return True


def test_an_identical_prompt_is_answered_from_the_cache_with_the_old_file(standin: Standin) -> None:
    first, second = finished(standin, txt2img()), finished(standin, txt2img())

    assert files(first) == files(second)
    assert second["status"]["messages"][1][1]["nodes"] == list(txt2img())


def test_the_cache_holds_only_the_prompt_before(standin: Standin) -> None:
    first = finished(standin, txt2img(seed=1))
    finished(standin, txt2img(seed=2))
    again = finished(standin, txt2img(seed=1))

    assert files(first) != files(again)


def test_equal_nodes_of_one_graph_run_once(standin: Standin) -> None:
    graph = txt2img()
    graph["10"] = node("SaveImage", filename_prefix="test", images=["8", 0])

    entry = finished(standin, graph)

    assert entry["outputs"]["9"] == entry["outputs"]["10"]
    assert {meta["node_id"] for meta in entry["meta"].values()} == {"9"}


def test_sleep_is_never_cached(standin: Standin) -> None:
    graph = {"1": node("EmulatorSleep", seconds=0.0), "2": node("PreviewImage", images=["1", 0])}

    assert [finished(standin, graph)["status"]["messages"][1][1]["nodes"] for _ in range(2)] == [[], []]


def test_a_prompt_with_front_overtakes_pending_ones(standin: Standin) -> None:
    socket = standin.socket("order")
    blocker = submitted(standin, SLEEPING, client_id="order")
    message_of(socket, "executing")
    last = submitted(standin, txt2img(seed=1), client_id="order")
    first = submitted(standin, txt2img(seed=2), client_id="order", front=True)

    standin.post("/interrupt", {"prompt_id": blocker})

    started = [message_of(socket, "execution_start")["prompt_id"] for _ in range(2)]
    messages_until_end(socket, last)
    socket.close()
    assert started == [first, last]


def test_interrupt_by_id_spares_other_prompts(standin: Standin) -> None:
    socket = standin.socket("spared")
    running = submitted(standin, SLEEPING, client_id="spared")
    message_of(socket, "executing")

    standin.post("/interrupt", {"prompt_id": "another"})
    still = [entry[1] for entry in standin.get("/queue").json()["queue_running"]]
    standin.post("/interrupt", {"prompt_id": running})

    assert still == [running]
    assert message_of(socket, "execution_interrupted")["prompt_id"] == running
    socket.close()


def test_a_prompt_runs_on_when_its_client_leaves(standin: Standin) -> None:
    socket = standin.socket("leaving")
    graph = txt2img(steps=10)
    prompt_id = submitted(standin, graph, client_id="leaving")
    message_of(socket, "progress")
    socket.shutdown()

    watcher = standin.socket("watcher")
    messages_until_end(watcher, submitted(standin, txt2img(seed=7), client_id="watcher"))
    watcher.close()

    assert files(standin.get(f"/history/{prompt_id}").json()[prompt_id])


def test_dropped_sockets_end_without_a_close_frame_and_prompts_run_on(standin: Standin) -> None:
    dropped, other = standin.socket("dropped"), standin.socket("other")
    prompt_id = submitted(standin, txt2img(steps=20), client_id="dropped")
    message_of(dropped, "progress")

    assert standin.post("/emulator/drop_sockets").json() == {"dropped": 2}

    assert not says_goodbye(dropped)
    assert not says_goodbye(other)
    again = standin.socket("dropped")
    messages_until_end(again, prompt_id)
    again.close()
    assert files(standin.get(f"/history/{prompt_id}").json()[prompt_id])


def test_an_unknown_fault_is_refused(standin: Standin) -> None:
    assert standin.post("/emulator/nope").status_code == 404


def test_two_hundred_prompts_at_once_all_run(standin: Standin) -> None:
    graphs = [{"1": node("EmulatorText", text=str(number))} for number in range(200)]
    socket = standin.socket("crowd")

    def submit(graph: dict[str, object]) -> str:
        answer = requests.post(f"{standin.url}/prompt", json={"prompt": graph, "client_id": "crowd"}, timeout=20)
        return str(answer.json()["prompt_id"])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        prompt_ids = set(pool.map(submit, graphs))
    waiting = set(prompt_ids)
    while waiting:
        data = message_of(socket, "executing")
        if data["node"] is None:
            waiting.discard(data["prompt_id"])
    socket.close()

    history = standin.get("/history").json()
    assert history.keys() == prompt_ids
    assert all(entry["status"]["completed"] for entry in history.values())


def test_the_history_entry_exists_when_the_last_message_comes(standin: Standin) -> None:
    socket = standin.socket("racing")
    for seed in range(20):
        prompt_id = submitted(standin, txt2img(seed=seed), client_id="racing")
        messages_until_end(socket, prompt_id)
        assert prompt_id in standin.get(f"/history/{prompt_id}").json()
    socket.close()


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"filename": "../input/x.png"}, 400),
        ({"filename": "/etc/passwd"}, 400),
        ({"filename": "passwd", "subfolder": "/etc"}, 403),
        ({"filename": "x.png", "subfolder": "../../.."}, 403),
        ({"filename": "x.png", "type": "models"}, 400),
        ({"filename": "x.png [elsewhere]"}, 404),
    ],
)
def test_view_stays_inside_its_folders(query: dict[str, str], status: int, standin: Standin) -> None:
    assert standin.get("/view", params=query).status_code == status


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("escape.png", {"subfolder": "../.."}),
        ("escape.png", {"subfolder": "/tmp"}),
        ("../escape.png", {}),
        ("{base}/escape.png", {}),
    ],
)
def test_upload_stays_inside_its_folders(name: str, form: dict[str, str], standin: Standin) -> None:
    answer = standin.post("/upload/image", files={"image": (name.format(base=standin.base), b"x")}, data=form)

    assert answer.status_code == 400
    assert not list(standin.base.parent.rglob("escape.png"))


def test_an_upload_is_viewed_unchanged(standin: Standin) -> None:
    stored = standin.post("/upload/image", files={"image": ("any.bin", b"some bytes")}).json()

    file = {"filename": stored["name"], "subfolder": stored["subfolder"], "type": stored["type"]}
    assert viewed(standin, file) == b"some bytes"


def test_unvalidated_nodes_do_not_hurt_the_worker(standin: Standin) -> None:
    """A node that no output needs is not validated, and its inputs may be invalid."""
    graph = {"1": node("EmulatorText", text="fine"), "2": {"class_type": "VAEDecode", "inputs": [1]}}
    graph["3"] = {"class_type": "VAEDecode"}
    graph["4"] = node("VAEEncode", pixels=["5", 0])
    graph["5"] = node("VAEDecode", samples=["4", 0])

    assert finished(standin, graph)["status"]["completed"]


def test_a_socket_of_another_origin_is_refused(standin: Standin) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        websocket.create_connection(standin.url.replace("http", "ws") + "/ws", origin="http://evil.example", timeout=30)

    assert refused.value.status_code == 403


def test_it_says_that_it_is_a_stand_in(standin: Standin) -> None:
    stats = standin.get("/system_stats").json()

    assert "stand-in" in standin.start_line.lower()
    assert "runs no model" in standin.start_line
    assert stats["system"]["stand_in"] is True
    assert "stand-in" in stats["devices"][0]["name"]


def test_sigterm_ends_the_process_at_once_even_while_a_prompt_runs(tmp_path: Path) -> None:
    server = Standin(tmp_path)
    socket = server.socket("killed")
    submitted(server, SLEEPING, client_id="killed")
    message_of(socket, "executing")

    started = time.monotonic()
    server.stop()

    assert time.monotonic() - started < 10
    assert not says_goodbye(socket)
    host, port = server.url.removeprefix("http://").split(":")
    with pytest.raises(ConnectionRefusedError):
        sockets.create_connection((host, int(port)), timeout=1).close()


def test_a_restart_empties_the_temporary_files_and_keeps_the_rest(tmp_path: Path) -> None:
    first = Standin(tmp_path)
    first.stop()
    for folder in ("temp", "input", "output"):
        (tmp_path / folder / "left.png").touch()

    second = Standin(tmp_path)
    second.stop()

    left = {folder: (tmp_path / folder / "left.png").exists() for folder in ("temp", "input", "output")}
    assert left == {"temp": False, "input": True, "output": True}


def test_placeholders_are_made_only_where_there_are_no_models(tmp_path: Path) -> None:
    own = tmp_path / "models" / "checkpoints" / "own.safetensors"
    own.parent.mkdir(parents=True)
    own.touch()

    server = Standin(tmp_path)
    choices = server.get("/models/checkpoints").json()
    server.stop()

    assert choices == ["own.safetensors"]
