"""Webhooks through a queue to live receivers."""

import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from handler.settings import BadSettings, Settings
from handler.webhooks.queue import WebhookQueue
from tests.support.ports import free_port
from tests.support.receivers import SECRET, SILENT, Open, Receiver, Stored, numbers, webhook
from tests.support.waiting import wait_until


@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_"), "testsecret", "dGVzdHNlY3JldA=="])
def test_a_webhook_arrives_signed_and_leaves_the_disk(
    opened: Open, receiver: Receiver, stored: Stored, secret: str
) -> None:
    opened(secret=secret).send(webhook(receiver.url))
    wait_until(lambda: bool(receiver.got) and not stored())
    (got,) = receiver.got
    assert got.headers["content-type"] == "application/json"
    assert got.headers["webhook-id"] == "job-1"
    assert Webhook(secret).verify(got.body, got.headers) == {"id": "job-1", "number": 0}


def test_without_a_secret_it_is_not_signed(opened: Open, receiver: Receiver) -> None:
    opened(secret="").send(webhook(receiver.url))
    wait_until(lambda: bool(receiver.got))
    assert "webhook-signature" not in receiver.got[0].headers
    assert receiver.got[0].headers["webhook-id"] == "job-1"
    assert abs(int(receiver.got[0].headers["webhook-timestamp"]) - time.time()) < 5


def test_a_legacy_webhook_has_none_of_the_headers(opened: Open, receiver: Receiver) -> None:
    opened().send(webhook(receiver.url, standard=False))
    wait_until(lambda: bool(receiver.got))
    assert not [name for name in receiver.got[0].headers if name.startswith("webhook")]


@pytest.mark.parametrize("secret", ["not base64!", "whsec_", "whsec_-_-_", "=", "a"])
def test_a_secret_that_is_no_base64_stops_the_start_and_is_not_shown(secret: str) -> None:
    with pytest.raises(BadSettings) as caught:
        WebhookQueue(Settings.from_environ({"WEBHOOK_SECRET": secret}))
    assert str(caught.value) == "WEBHOOK_SECRET must be base64, with or without whsec_ in front."


@pytest.mark.parametrize(
    ("webhook_id", "shown"),
    [
        ("a\nX-Evil: 1\r\n", "a%0AX-Evil: 1%0D%0A"),
        ("Jörg/狐", "J%C3%B6rg/%E7%8B%90"),
        ("  two words ", "%20%20two words%20"),
        ("50%", "50%"),
        ("../../etc/passwd", "../../etc/passwd"),
    ],
)
def test_any_id_fits_into_the_header_and_is_as_given_in_the_body(
    opened: Open, receiver: Receiver, webhook_id: str, shown: str
) -> None:
    opened().send(webhook(receiver.url, webhook_id=webhook_id))
    wait_until(lambda: bool(receiver.got))
    (got,) = receiver.got
    assert got.headers["webhook-id"] == shown
    assert "x-evil" not in got.headers
    assert Webhook(SECRET).verify(got.body, got.headers)["id"] == webhook_id


@pytest.mark.parametrize("answers", [[500, 500], [503, 302], [408, 425], [409, 429]])
def test_it_is_tried_again_under_the_same_id(
    opened: Open, receiver: Receiver, stored: Stored, answers: list[int]
) -> None:
    receiver.answers = [*answers]
    opened().send(webhook(receiver.url))
    wait_until(lambda: len(receiver.got) == 3 and not stored())
    assert {got.headers["webhook-id"] for got in receiver.got} == {"job-1"}
    # A redirect is a failure, and nobody is told elsewhere.
    assert {got.path for got in receiver.got} == {"/hook"}


@pytest.mark.parametrize("status", [400, 404, 410, 413])
def test_a_final_answer_ends_it(
    opened: Open, receiver: Receiver, stored: Stored, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [status]
    queue = opened(sweep_interval_s=0.02)
    queue.send(webhook(f"{receiver.url}?token=hush"))
    wait_until(lambda: bool(receiver.got) and not stored())
    queue.stop()
    assert len(receiver.got) == 1
    assert f"it answered {status}" in caplog.text
    assert "hush" not in caplog.text


@pytest.mark.parametrize(("tries", "made"), [(0, 1), (1, 1), (2, 2)])
def test_the_tries_in_a_row_are_a_setting(
    opened: Open, receiver: Receiver, stored: Stored, tries: int, made: int
) -> None:
    """As the reference counts them: the first one is one of them."""
    receiver.answers = [500] * 5
    queue = opened(tries=tries)
    queue.send(webhook(receiver.url))
    queue.stop()
    assert len(receiver.got) == made
    assert len(stored()) == 1


def test_what_failed_is_tried_again_later(opened: Open, receiver: Receiver, stored: Stored) -> None:
    receiver.answers = [500] * 7
    opened(sweep_interval_s=0.02).send(webhook(receiver.url))
    wait_until(lambda: len(receiver.got) == 8 and not stored())


def test_a_silent_receiver_is_given_up_and_holds_up_nobody(opened: Open, receiver: Receiver, hook: Receiver) -> None:
    hook.answers = [SILENT, SILENT, SILENT]
    queue = opened(timeout_s=(1, 0.3))
    for number in range(20):
        queue.send(webhook(hook.url, number))
    wait_until(lambda: bool(hook.got))
    queue.send(webhook(receiver.url))
    wait_until(lambda: bool(receiver.got))
    assert len(hook.got) < 22
    wait_until(lambda: len(hook.got) == 22)
    assert numbers(hook)[:3] == [0, 0, 0]


def test_a_slow_url_holds_up_no_other_url_of_its_host(opened: Open, hook: Receiver) -> None:
    """Two webhooks to a path that took 20 s each held up those to all other paths of the host by 40 s."""
    hook.held = {"/hook/slow"}
    queue = opened()
    queue.send(webhook(f"{hook.url}/slow", 1), webhook(f"{hook.url}/slow", 2))
    wait_until(lambda: bool(hook.got))
    queue.send(webhook(f"{hook.url}/other", 3))
    wait_until(lambda: numbers(hook) == [1, 3])
    hook.held.clear()
    wait_until(lambda: numbers(hook) == [1, 3, 2])


def test_a_host_with_many_slow_urls_holds_up_no_other_host(opened: Open, receiver: Receiver, hook: Receiver) -> None:
    hook.held = {f"/hook/{number}" for number in range(40)}
    queue = opened()
    for number in range(40):
        queue.send(webhook(f"{hook.url}/{number}", number))
    wait_until(lambda: len(hook.got) == 4)
    queue.send(webhook(receiver.url))
    wait_until(lambda: bool(receiver.got))
    assert len(hook.got) == 4
    hook.held.clear()
    wait_until(lambda: sorted(numbers(hook)) == list(range(40)))


def test_jobs_that_share_a_url_are_told_of_in_order(opened: Open, hook: Receiver) -> None:
    hook.held = {"/hook"}
    queue = opened()
    for number in range(0, 20, 2):
        queue.send(webhook(hook.url, number), webhook(hook.url, number + 1))
    hook.held.clear()
    wait_until(lambda: len(hook.got) == 20)
    assert numbers(hook) == list(range(20))


def test_a_receiver_that_is_down_gets_it_after_a_restart(opened: Open, stored: Stored) -> None:
    port = free_port()
    first = opened()
    first.send(webhook(f"http://127.0.0.1:{port}/hook"))
    wait_until(lambda: not first._sending and not first._waiting)
    first.stop(0)
    assert len(stored()) == 1
    got: list[str] = []

    class Up(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.headers["webhook-id"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", port), Up) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        opened()
        wait_until(lambda: not stored())
        server.shutdown()
    assert got == ["job-1"]


def test_the_webhooks_of_a_job_arrive_in_order(opened: Open, receiver: Receiver) -> None:
    receiver.answers = [200, 500, 200, 429]
    opened().send(*(webhook(receiver.url, number) for number in range(6)))
    wait_until(lambda: len(receiver.got) == 8)
    assert numbers(receiver) == [0, 1, 1, 2, 2, 3, 4, 5]


def test_a_private_receiver_is_refused(
    opened: Open, receiver: Receiver, stored: Stored, caplog: pytest.LogCaptureFixture
) -> None:
    queue = opened(private=False)
    queue.send(webhook(receiver.url), webhook("http://[::1"), webhook("http:///x"), webhook("http://a..b/"))
    wait_until(lambda: not stored())
    assert receiver.got == []
    assert "it is not at a public address" in caplog.text
    assert caplog.text.count("the URL cannot be used") == 3


def test_stopping_sends_what_is_waiting(opened: Open, receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers = [500]
    queue = opened(backoff_s=0.2)
    queue.send(webhook(receiver.url, 1))
    queue.send(webhook(receiver.url, 2))
    queue.stop()
    assert numbers(receiver) == [1, 1, 2]
    assert not list(tmp_path.glob("webhooks/*"))


def test_stopping_does_not_wait_for_ever(opened: Open, receiver: Receiver, stored: Stored) -> None:
    receiver.answers = [500] * 100
    queue = opened(backoff_s=60)
    queue.send(webhook(receiver.url))
    wait_until(lambda: bool(receiver.got))
    began = time.monotonic()
    queue.stop(0.1)
    assert time.monotonic() - began < 20
    assert len(stored()) == 1
