"""What a queue keeps on the disk, and what becomes of it when processes die."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from handler.webhooks.queue import Delivery
from tests.support.receivers import Open, Receiver, Stored, numbers, webhook
from tests.support.waiting import wait_until


def test_outboxes_that_share_a_folder_send_everything_once(opened: Open, receiver: Receiver, stored: Stored) -> None:
    dead = opened(start=False)
    for number in range(30):
        dead.send(webhook(receiver.url, number))
    dead.stop(0)
    both = [opened(sweep_interval_s=0.01), opened(sweep_interval_s=0.01)]
    for number in range(30, 60):
        both[number % 2].send(webhook(receiver.url, number))
    wait_until(lambda: not stored())
    for queue in both:
        queue.stop()
    assert sorted(numbers(receiver)) == list(range(60))


def test_a_promise_that_is_kept_sends_what_it_is_kept_with(opened: Open, receiver: Receiver, tmp_path: Path) -> None:
    queue = opened()
    promise = queue.promise([webhook(receiver.url, -1)])
    opened(sweep_interval_s=0.01)  # another process looks for promises of dead ones
    promise.keep([webhook(receiver.url, 1), webhook(receiver.url, 2)])
    promise.keep([webhook(receiver.url, 3)])
    queue.promise([]).keep([])
    wait_until(lambda: len(receiver.got) == 2 and not list(tmp_path.glob("webhooks/*.[dp]*")))
    assert numbers(receiver) == [1, 2]


LEFT_BEHIND = """
import os, signal, sys
from pathlib import Path
from handler import Settings
from handler.webhooks.queue import Delivery, WebhookQueue

queue = WebhookQueue(Settings.from_environ({"CACHE_DIR": sys.argv[1]}))
hooks = [Delivery(sys.argv[2] + path, "job-1", b'{"number": -1}', True) for path in ("", "/v2")]
promise = queue.promise(hooks)
if sys.argv[3] == "drafts":
    queue._store.add(next(iter(queue._promised)), [Delivery(sys.argv[2], "job-1", b'{"number": 7}')])
queue.promise([Delivery(sys.argv[2], "job-2", b'{"number": -2}')]).keep([Delivery(sys.argv[2], "job-2", b'{"number": 2}')])
print("promised", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("when", ["before", "drafts"])
def test_promises_of_a_killed_process_become_failures(
    opened: Open, receiver: Receiver, tmp_path: Path, when: str
) -> None:
    """Also when it was killed while it wrote what the promise was to be kept with: never both."""
    command = [sys.executable, "-c", LEFT_BEHIND, str(tmp_path), receiver.url, when]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"promised\n"
        living = opened(sweep_interval_s=0.01)
        living.send(webhook(receiver.url, 1))
        wait_until(lambda: len(receiver.got) == 1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_until(lambda: not list(tmp_path.glob("webhooks/*.[dp]*")))
    living.stop()
    assert sorted(numbers(receiver)) == [-1, -1, 1, 2]
    assert sorted(got.path for got in receiver.got if got.json["number"] < 0) == ["/hook", "/hook/v2"]
    assert not list(tmp_path.glob("webhooks/*"))


def test_what_is_too_old_is_dropped(
    opened: Open, receiver: Receiver, stored: Stored, caplog: pytest.LogCaptureFixture
) -> None:
    dead = opened(start=False)
    for number in range(3):
        dead.send(webhook(receiver.url, number))
    for path in sorted(stored(), key=lambda path: path.stat().st_mtime_ns)[:2]:
        os.utime(path, (1e9, 1e9))
    dead.stop(0)
    opened(max_age_s=3600)
    wait_until(lambda: not stored())
    assert numbers(receiver) == [2]
    assert caplog.text.count("it is too old") == 2


def test_of_too_much_the_oldest_are_dropped(opened: Open, stored: Stored, caplog: pytest.LogCaptureFixture) -> None:
    queue = opened(start=False, max_bytes=3000)
    for number in range(5):
        queue.send(Delivery("http://example.com", f"j{number}", orjson.dumps({"number": number, "image": "x" * 1000})))
    assert sorted(orjson.loads(path.read_bytes().split(b"\n", 1)[1])["number"] for path in stored()) == [3, 4]
    queue.send(Delivery("http://example.com", "large", b"x" * 5000))
    assert [path.stat().st_size > 5000 for path in stored()] == [True]
    assert "job 'j0': its webhook to example.com is dropped: there are too many" in caplog.text


def test_the_files_are_the_owner_s_alone_and_do_not_bear_the_id(opened: Open, tmp_path: Path) -> None:
    queue = opened(start=False)
    queue.send(webhook("http://example.com", webhook_id="../../x"))
    queue.promise([webhook("http://example.com", webhook_id="../../x")])
    found = list(tmp_path.rglob("*"))
    assert {path.parent for path in found if path.is_file()} == {tmp_path / "webhooks"}
    assert {path.stat().st_mode & 0o777 for path in found if path.is_file()} == {0o600}
    assert (tmp_path / "webhooks").stat().st_mode & 0o777 == 0o700


def test_without_webhooks_the_disk_is_not_touched(opened: Open, tmp_path: Path) -> None:
    queue = opened(sweep_interval_s=0.01)
    queue.promise([]).keep([])
    queue.stop()
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_reported_and_removed(
    opened: Open, receiver: Receiver, stored: Stored, caplog: pytest.LogCaptureFixture
) -> None:
    dead = opened(start=False)
    dead.send(webhook(receiver.url, 1), webhook(receiver.url, 2))
    dead.stop(0)
    with stored()[0].open("r+b") as file:
        file.truncate(stored()[0].stat().st_size - 3)
    opened()
    wait_until(lambda: not stored())
    assert numbers(receiver) == [2]
    assert "damaged" in caplog.text


def test_a_disk_that_takes_nothing_does_not_keep_webhooks_back(
    opened: Open, receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "webhooks").write_text("in the way")
    queue = opened()
    queue.promise([webhook(receiver.url, -1)]).keep([webhook(receiver.url, 1)])
    queue.send(webhook(receiver.url, 2))
    wait_until(lambda: len(receiver.got) == 2)
    assert sorted(numbers(receiver)) == [1, 2]
    assert "lost at a restart" in caplog.text
