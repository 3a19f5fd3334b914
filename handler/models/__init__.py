"""Model files: their folders, downloading them, keeping them, finding them. Above handler.storage, below handler.comfyui."""

from handler.models import folders
from handler.models.cache import ModelCache
from handler.models.download import is_url, name_from_url
from handler.models.hold import Hold
from handler.models.search import ModelSearch, log_volumes

__all__ = [
    "Hold",
    "ModelCache",
    "ModelSearch",
    "folders",
    "is_url",
    "log_volumes",
    "name_from_url",
]
