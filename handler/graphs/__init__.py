"""Graphs in ComfyUI's API format, and the workflow files that make them. Pure functions, no I/O but loading those files."""
