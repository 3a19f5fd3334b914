"""How the doors log: one line an event, on standard error."""

import logging

_LEVELS = {
    "trace": 5,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}


def configure(level: str) -> None:
    """Set the root logger up. `level` is one of LOG_LEVEL's values."""
    logging.basicConfig(level=_LEVELS[level], format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", force=True)
    # Their lines hold whole URLs and headers; what went wrong is in ours.
    for chatty in ("urllib3", "websocket", "botocore"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(max(_LEVELS[level], logging.INFO))
