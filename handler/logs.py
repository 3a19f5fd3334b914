"""Logging of the servers: one line per event, to standard error."""

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
    """Configure the root logger. `level` is a value of LOG_LEVEL."""
    logging.basicConfig(level=_LEVELS[level], format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", force=True)
    # They log whole URLs and headers, which may be secret. We log the errors.
    for chatty in ("urllib3", "websocket", "botocore"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(max(_LEVELS[level], logging.INFO))
