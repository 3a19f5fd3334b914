"""Connections to addresses that callers choose, and the deadline of whatever uses the network. Imports only the ground."""

from handler.net import deadline
from handler.net.guard import check_url, guard_pools, new_session

__all__ = [
    "check_url",
    "deadline",
    "guard_pools",
    "new_session",
]
