"""Webhooks: to callers, kept on the disk until they arrive, and to the operator. What they say is up to those who import it."""

from handler.webhooks.message import Delivery
from handler.webhooks.queue import Promise, WebhookQueue
from handler.webhooks.system_events import SystemEvents

__all__ = [
    "Delivery",
    "Promise",
    "SystemEvents",
    "WebhookQueue",
]
