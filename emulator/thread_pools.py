"""The thread pools of the HTTP API: one for each kind of wait, so that none delays another."""

from handler.threads import ThreadPool

CHECKS = 8


class ThreadPools:
    """A request holds a thread of one pool at a time. What may have to wait for another server has a pool of its own."""

    def __init__(self, inflight: int) -> None:
        self.probes = ThreadPool(4, "probe")
        """Questions that take a moment: /ready, /models, /interrupt, the OpenAPI document."""
        self.checks = ThreadPool(CHECKS, "check")
        """Requests until they are checked; also fetching what no other server has to be asked for."""
        self.inputs = ThreadPool(8, "inputs")
        self.models = ThreadPool(8, "models")
        self.jobs = ThreadPool(max(20, inflight), "job")
        """Jobs from the wait for admission until their outputs are there, or in the answer."""
        self.uploads = ThreadPool(8, "uploads")
        self.endings = ThreadPool(4, "ending")
        """Requests that have been ended while they waited for a thread."""
