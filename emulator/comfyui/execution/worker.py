"""The one thread that runs prompts."""

import logging
import threading

from emulator.comfyui.execution.executor import Executor
from emulator.comfyui.execution.queue import PromptQueue
from emulator.comfyui.nodes.trials import memory
from emulator.comfyui.server.sockets import Hub

logger = logging.getLogger(__name__)

STOP, FREE_MEMORY = "stop", "free_memory"


class Worker:
    def __init__(self, prompts: PromptQueue, executor: Executor, hub: Hub) -> None:
        self.prompts = prompts
        self.executor = executor
        self.hub = hub
        # a daemon, so that a signal ends the process at once, as the real one does
        self._thread = threading.Thread(target=self._work, name="prompt-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after interrupting the current prompt; what waits is lost, as it is in memory only."""
        self.prompts.raise_flag(STOP)
        while self._thread.is_alive():
            # again and again, because a prompt that is just starting takes the interrupt back
            self.executor.interrupt.set()
            self._thread.join(0.05)

    def _work(self) -> None:
        while True:
            taken = self.prompts.take()
            if taken is not None:
                ticket, entry = taken
                logger.info("prompt %s starts", entry[1])
                outcome = self.executor.execute(entry)
                # the history entry comes after execution_success, and the last message after the history entry
                self.prompts.done(ticket, outcome)
                if self.hub.client_id is not None:
                    self.hub.post("executing", {"node": None, "prompt_id": entry[1]}, self.hub.client_id)
                logger.info("prompt %s ends: %s", entry[1], outcome.status)
            flags = self.prompts.take_flags()
            if FREE_MEMORY in flags:
                self.executor.cache.clear()
                memory.freed = True
            if STOP in flags:
                return
