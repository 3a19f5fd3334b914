"""The table of all node classes, as ComfyUI's NODE_CLASS_MAPPINGS."""

from types import ModuleType

from emulator.comfyui.nodes import images, latents, loaders, saving, testing
from emulator.comfyui.nodes.node import Node, NodeClasses


def collect(*modules: ModuleType) -> NodeClasses:
    """The node classes that the modules define, by the name that graphs use."""
    classes = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    nodes = [cls for cls in classes if issubclass(cls, Node) and cls.category]
    return {cls.name or cls.__name__: cls for cls in nodes}


NODE_CLASSES = collect(loaders, latents, images, saving, testing)
