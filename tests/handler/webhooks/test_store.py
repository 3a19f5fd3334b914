"""Files of the store that are damaged, or none of ours, concern no webhook but their own."""

from pathlib import Path

import pytest

from tests.support.receivers import Open, Receiver, Stored, numbers, webhook
from tests.support.waiting import wait_until

DEAD, GROUP = "d" * 16, "e" * 16
HEAD = b'{"url":"http://example.com","id":"job-1","standard":true,"size":%s}\n%s'
DAMAGED = {
    "empty": b"",
    "cut in its head": HEAD[:30],
    "cut in a body": HEAD % (b"40", b"{}"),
    "of an endless body": HEAD % (b"9" * 19, b"{}"),
    "of a negative size": HEAD % (b"-1", b"{}"),
    "of another form": b"[]\n",
    "without a URL": b'{"url":1,"id":"job-1","standard":true,"size":2}\n{}',
    "of no text": HEAD % (b"2", b"\xff\xfe"),
}


@pytest.fixture
def folder(opened: Open, receiver: Receiver, tmp_path: Path) -> Path:
    """A store with webhook 1, which a process left that ended."""
    dead = opened(start=False)
    dead.send(webhook(receiver.url, 1))
    dead.stop(0)
    return tmp_path / "webhooks"


@pytest.mark.parametrize("name", [f"{GROUP}.promise", f"{GROUP}.0000.{'f' * 32}.delivery"])
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_put_away_and_delays_no_webhook(
    opened: Open, receiver: Receiver, folder: Path, kind: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged promise ended the sweep, and all webhooks of dead processes waited for the next: five minutes."""
    print(f"injected: a file that is {kind}")
    (folder / f"{DEAD}.{name}").write_bytes(DAMAGED[kind])
    opened()
    wait_until(lambda: numbers(receiver) == [1] and not list(folder.glob("*.[dp]*")))
    assert caplog.text.count("is damaged") == 1


def test_of_a_damaged_promise_is_kept_what_can_be_read(opened: Open, receiver: Receiver, folder: Path) -> None:
    opened(start=False).promise([webhook(receiver.url, 2), webhook(receiver.url, 3)])
    (promise,) = folder.glob("*.promise")
    (folder / f"{DEAD}.{GROUP}.promise").write_bytes(promise.read_bytes()[:-1])
    opened()
    wait_until(lambda: sorted(numbers(receiver)) == [1, 2])


@pytest.mark.parametrize(
    "name",
    [
        f"{DEAD}.x.delivery",
        f"{DEAD}.delivery",
        f"{DEAD}.promise",
        f"{DEAD}.{GROUP}.0000.x.delivery",
        f"{DEAD}.{GROUP}.{'f' * 32}.0000.delivery",
        f"{DEAD}.a.b.c.d.e.delivery",
        "a.b.c.d.delivery",
        f"{DEAD}.txt",
        "notes.delivery",
    ],
)
def test_a_stray_file_is_let_alone_and_the_sweeps_go_on(
    opened: Open, receiver: Receiver, folder: Path, name: str
) -> None:
    """A name of another form ended the thread that sweeps: what had failed was never tried again."""
    (folder / name).write_text("not ours")
    receiver.answers = [500] * 7
    opened(sweep_interval_s=0.02)
    wait_until(lambda: len(receiver.got) == 8)
    assert (folder / name).read_text() == "not ours"


@pytest.mark.parametrize("name", ["lock", f"{GROUP}.promise", f"{GROUP}.tmp", f"{GROUP}.0000.{'f' * 32}.delivery"])
def test_a_file_that_cannot_be_read_stays_and_the_sweeps_go_on(
    opened: Open, receiver: Receiver, folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Folders stand in for what the disk, or another user's process, does not give."""
    (folder / f"{DEAD}.{name}").mkdir()
    receiver.answers = [500] * 7
    opened(sweep_interval_s=0.02, max_age_s=3600)
    wait_until(lambda: len(receiver.got) == 8)
    assert [path for path in folder.glob(f"*.{name}") if path.is_dir()]
    assert "is left for later" in caplog.text


def test_what_an_older_version_left_is_sent(opened: Open, receiver: Receiver, stored: Stored) -> None:
    """Its names held the host, but not the URL."""
    dead = opened(start=False)
    dead.send(webhook(receiver.url, 1), webhook(f"{receiver.url}/other", 2))
    dead.stop(0)
    for path in stored():
        *start, hashes, end = path.name.split(".")
        path.rename(path.with_name(".".join([*start, hashes[:16], end])))
    opened()
    wait_until(lambda: numbers(receiver) == [1, 2] and not stored())
