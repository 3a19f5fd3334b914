"""HTTP_PROXY and NO_PROXY, for everything but ComfyUI."""

import socket
import threading
from collections.abc import Iterator

import pytest

from handler import HandlerError, Service
from handler.pipeline import run
from tests.support import graphs
from tests.support.comfyui import Comfyui

PNG = graphs.picture(color="lime")


class Proxy:
    """Answers every request with a picture, and keeps the first line of each."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as request:
                self.asked.append(request.readline().decode().strip())
                while request.readline().strip():
                    pass
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(PNG) + PNG
                )


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.close()


def through(service: Service, proxy: Proxy, **changes: object) -> Service:
    return Service.load(service.settings.model_copy(update={"http_proxy": proxy.url, **changes}))


def test_inputs_come_through_the_proxy(service: Service, clean: Comfyui, proxy: Proxy) -> None:
    answer = run({"input": {"prompt": graphs.load("http://pictures.invalid/a.png")}}, through(service, proxy))
    assert graphs.opened(answer["images"][0]).getpixel((0, 0)) == (0, 255, 0)
    assert proxy.asked == ["GET http://pictures.invalid/a.png HTTP/1.1"]


def test_hosts_of_no_proxy_are_reached_without(service: Service, clean: Comfyui, proxy: Proxy) -> None:
    direct = through(service, proxy, no_proxy="pictures.invalid")
    with pytest.raises(HandlerError, match="no connection"):
        run({"input": {"prompt": graphs.load("http://pictures.invalid/a.png")}}, direct)
    assert proxy.asked == []


def test_a_private_address_is_refused_through_a_proxy_too(service: Service, clean: Comfyui, proxy: Proxy) -> None:
    strict = through(service, proxy, allow_private_urls=False)
    with pytest.raises(HandlerError) as caught:
        run({"input": {"prompt": graphs.load("http://127.0.0.1:1/a.png")}}, strict)
    assert caught.value.code == "FORBIDDEN_URL"
    assert proxy.asked == []
