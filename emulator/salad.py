"""On Salad only: the instance's deletion cost follows the queue, so that a busy node is not the one that is scaled in."""

import logging
import threading

import requests

logger = logging.getLogger(__name__)

_TIMEOUT_S = 5
# Between a try that failed and the next.
_PAUSE_S = 5.0


class DeletionCost:
    """Tells Salad's metadata service the latest cost, on a thread of its own: a slow service costs no request any time."""

    def __init__(self, metadata_url: str, *, pause_s: float = _PAUSE_S) -> None:
        self._url = f"{metadata_url.rstrip('/')}/v1/deletion-cost"
        self._pause_s = pause_s
        self._changed = threading.Condition()
        self._cost: int | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="deletion-cost", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self.set(0)

    def set(self, cost: int) -> None:
        """Costs that change faster than they can be sent are skipped; the last one is sent until it arrives."""
        with self._changed:
            self._cost = cost
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _run(self) -> None:
        failing = False
        with requests.Session() as session:
            session.trust_env = False
            known: int | None = None
            while (cost := self._news(known)) is not None:
                try:
                    self._send(session, cost)
                    known, failing = cost, False
                except requests.RequestException as exc:
                    if not failing:
                        logger.warning("the deletion cost cannot be set; it is tried again: %s", type(exc).__name__)
                    # Not the one before: this one may have arrived, although its answer did not.
                    known, failing = None, True
                    self._pause()

    def _news(self, known: int | None) -> int | None:
        """The cost, once it is another than the service knows; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._cost != known)
            return None if self._ended else self._cost

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._ended, self._pause_s)

    def _send(self, session: requests.Session, cost: int) -> None:
        answer = session.put(self._url, json={"deletion_cost": cost}, headers={"Metadata": "true"}, timeout=_TIMEOUT_S)
        answer.raise_for_status()
