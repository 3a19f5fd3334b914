"""The steps of a job, a module for each. pipeline.py puts them in order; the adapters use the registry and the progress."""

from handler.jobs.announcement import failure_webhooks, success_webhooks
from handler.jobs.answer import build_result
from handler.jobs.cleanup import clean_up, remove_folders
from handler.jobs.delivery import deliver_outputs
from handler.jobs.execution import run_graph
from handler.jobs.job import CheckedRequest, Job, Produced, Times
from handler.jobs.outputs import convert_outputs, read_outputs
from handler.jobs.prepare import check_destinations, check_graph, expand, fetch_files, prefix_outputs, remote_source
from handler.jobs.progress import Progress, Send
from handler.jobs.registry import JobRegistry, merge_states

__all__ = [
    "CheckedRequest",
    "Job",
    "JobRegistry",
    "Produced",
    "Progress",
    "Send",
    "Times",
    "build_result",
    "check_destinations",
    "check_graph",
    "clean_up",
    "convert_outputs",
    "deliver_outputs",
    "expand",
    "failure_webhooks",
    "fetch_files",
    "merge_states",
    "prefix_outputs",
    "read_outputs",
    "remote_source",
    "remove_folders",
    "run_graph",
    "success_webhooks",
]
