"""Removes what a job has left in ComfyUI and on the disk."""

import logging
import shutil
from pathlib import Path

from handler.errors import ComfyError
from handler.jobs.job import Job
from handler.service import Service
from handler.settings import Settings

logger = logging.getLogger(__name__)


def clean_up(job: Job, service: Service, *, keep_outputs: bool = False) -> None:
    """Remove a finished job's files and its entry in ComfyUI's history, and let go of its models."""
    job.ticket.finish()
    job.hold.close()
    remove_folder(service.settings.input_dir / job.folder)
    if not keep_outputs:
        remove_folder(service.settings.output_dir / job.folder)
    try:
        service.comfy.forget(job.ticket.prompt_id)
    except ComfyError as exc:
        logger.warning("job %r: its history entry stays: %s", job.request.id, exc)


def remove_folders(folder: str, settings: Settings) -> None:
    """Remove a job's input and output folder."""
    remove_folder(settings.input_dir / folder)
    remove_folder(settings.output_dir / folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder, if it is on this disk. What cannot be removed is logged."""
    if folder.is_dir():
        shutil.rmtree(folder, onerror=lambda _, path, exc: logger.warning("%s cannot be removed: %s", path, exc[1]))
