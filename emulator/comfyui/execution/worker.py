"""The thread that runs prompts."""

import logging
import threading

from emulator.comfyui.execution.clients import Clients
from emulator.comfyui.execution.executor import Executor
from emulator.comfyui.execution.queue import PromptQueue

logger = logging.getLogger(__name__)

STOP, FREE_MEMORY = "stop", "free_memory"


class Worker:
    """Runs queued prompts one after the other."""

    def __init__(self, prompts: PromptQueue, executor: Executor, clients: Clients) -> None:
        self.prompts = prompts
        self.executor = executor
        self.clients = clients
        # a daemon, so that a signal ends the process at once, as the real one does
        self._thread = threading.Thread(target=self._work, name="prompt-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Interrupt the current prompt and end the thread. Pending prompts are lost."""
        self.prompts.set_flag(STOP)
        while self._thread.is_alive():
            # repeatedly, because a prompt that is just starting clears the interrupt
            self.executor.interrupt.set()
            self._thread.join(0.05)

    def _work(self) -> None:
        while True:
            taken = self.prompts.take()
            if taken is not None:
                item_id, entry = taken
                logger.info("prompt %s starts", entry[1])
                outcome = self.executor.execute(entry)
                # the history entry comes after execution_success, and the last message after the history entry
                self.prompts.finish(item_id, outcome)
                if self.clients.client_id is not None:
                    self.clients.post("executing", {"node": None, "prompt_id": entry[1]}, self.clients.client_id)
                logger.info("prompt %s ends: %s", entry[1], outcome.status)
            flags = self.prompts.take_flags()
            if FREE_MEMORY in flags:
                self.executor.free_memory()
            if STOP in flags:
                return
