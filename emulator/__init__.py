"""The HTTP API on top of the handler."""
