"""Connections to addresses that callers choose, and the deadline of whatever uses the network."""
