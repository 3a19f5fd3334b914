"""The endpoints of the HTTP API, one module per family. Imported by emulator.app alone."""

from emulator.routes import deepinfra, docs, probes, prompts
from emulator.routes.downloads import Downloads
from emulator.routes.metrics import Metrics

__all__ = [
    "Downloads",
    "Metrics",
    "deepinfra",
    "docs",
    "probes",
    "prompts",
]
