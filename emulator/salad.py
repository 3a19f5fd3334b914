"""Salad's deletion cost: the number of jobs, so that scaling in removes idle instances first."""

import logging
import threading

import requests

logger = logging.getLogger(__name__)

_TIMEOUT_S = 5
# Between two tries after an error.
_PAUSE_S = 5.0


class DeletionCost:
    """Sends the latest cost to Salad's metadata service, on a thread of its own, so that requests do not wait for it."""

    def __init__(self, metadata_url: str, *, pause_s: float = _PAUSE_S) -> None:
        self._url = f"{metadata_url.rstrip('/')}/v1/deletion-cost"
        self._pause_s = pause_s
        self._changed = threading.Condition()
        self._cost: int | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="deletion-cost", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self.set(0)

    def set(self, cost: int) -> None:
        """Send a new cost. It is tried again until it arrives; a later cost replaces it."""
        with self._changed:
            self._cost = cost
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _run(self) -> None:
        failing = False
        with requests.Session() as session:
            session.trust_env = False
            sent: int | None = None
            while (cost := self._wait_for_change(sent)) is not None:
                try:
                    self._send(session, cost)
                    sent, failing = cost, False
                except requests.RequestException as exc:
                    if not failing:
                        logger.warning("the deletion cost cannot be set, trying again: %s", type(exc).__name__)
                    # Unknown, because the cost may have arrived although its response did not.
                    sent, failing = None, True
                    self._pause()

    def _wait_for_change(self, sent: int | None) -> int | None:
        """Wait for a cost other than the sent one; None once stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._cost != sent)
            return None if self._stopped else self._cost

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped, self._pause_s)

    def _send(self, session: requests.Session, cost: int) -> None:
        answer = session.put(self._url, json={"deletion_cost": cost}, headers={"Metadata": "true"}, timeout=_TIMEOUT_S)
        answer.raise_for_status()
