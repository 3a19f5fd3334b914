"""On Salad only: the instance's deletion cost follows the queue, so that a busy node is not the one that is scaled in."""

import logging
import threading

import requests

logger = logging.getLogger(__name__)

_TIMEOUT_S = 5


class DeletionCost:
    """Tells Salad's metadata service the latest cost, on a thread of its own: a slow service costs no request any time."""

    def __init__(self, metadata_url: str) -> None:
        self._url = f"{metadata_url.rstrip('/')}/v1/deletion-cost"
        self._changed = threading.Condition()
        self._cost: int | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="deletion-cost", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self.set(0)

    def set(self, cost: int) -> None:
        """Costs that change faster than they can be sent are skipped; the last one always is sent."""
        with self._changed:
            self._cost = cost
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _run(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            sent: int | None = None
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._ended or self._cost != sent)  # noqa: B023 - called at once
                    if self._ended:
                        return
                    sent = self._cost
                self._send(session, sent)

    def _send(self, session: requests.Session, cost: int | None) -> None:
        try:
            answer = session.put(
                self._url, json={"deletion_cost": cost}, headers={"Metadata": "true"}, timeout=_TIMEOUT_S
            )
            answer.raise_for_status()
        except requests.RequestException as exc:
            logger.warning("the deletion cost could not be set: %s", type(exc).__name__)
