"""The node classes, one file per family, and their entries of /object_info. Imported by execution and the server."""

from emulator.comfyui.nodes.node import Context, Node, NodeClasses, input_declarations, object_info
from emulator.comfyui.nodes.registry import NODE_CLASSES
from emulator.comfyui.nodes.testing import free_memory

__all__ = [
    "NODE_CLASSES",
    "Context",
    "Node",
    "NodeClasses",
    "free_memory",
    "input_declarations",
    "object_info",
]
