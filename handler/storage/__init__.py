"""Where files come from and go to: one module per kind of store, all with the same methods.

Above handler.schemas; whoever fetches or uploads files imports it.
"""

from handler.storage import runpod_bucket
from handler.storage.auth import AuthFor
from handler.storage.stores import Storage, store_for_upload, store_for_url
from handler.storage.transfer import Version, time_limit

__all__ = [
    "AuthFor",
    "Storage",
    "Version",
    "runpod_bucket",
    "store_for_upload",
    "store_for_url",
    "time_limit",
]
