"""Graphs in ComfyUI's API format, and the workflow files that make them. Below everything that handles jobs.

Pure functions; only load_workflows reads files.
"""

from handler.graphs.graph import (
    Graph,
    MediaInput,
    ModelInput,
    Node,
    describe_node,
    file_stem,
    has_output,
    media_inputs,
    model_inputs,
    prefix_outputs,
    replace_websocket_outputs,
    set_inputs,
    set_media,
    title,
)
from handler.graphs.links import check_links
from handler.graphs.node_classes import NodeClass, NodeClasses, node_class
from handler.graphs.workflows import BadWorkflow, Workflow, checkpoint_defaults, expand_workflow, load_workflows

__all__ = [
    "BadWorkflow",
    "Graph",
    "MediaInput",
    "ModelInput",
    "Node",
    "NodeClass",
    "NodeClasses",
    "Workflow",
    "check_links",
    "checkpoint_defaults",
    "describe_node",
    "expand_workflow",
    "file_stem",
    "has_output",
    "load_workflows",
    "media_inputs",
    "model_inputs",
    "node_class",
    "prefix_outputs",
    "replace_websocket_outputs",
    "set_inputs",
    "set_media",
    "title",
]
