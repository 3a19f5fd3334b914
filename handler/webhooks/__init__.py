"""Webhooks: to callers, stored on disk until they arrive, and system events to the operator."""
