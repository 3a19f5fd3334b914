"""Field types for workflow files, which import nothing else of ours. ComfyUI has the lists of their values."""

import difflib
import random
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from handler.urls import shorten

_MAX_HINTS = 3
# Longer values are cut, as comparing them would take minutes.
_MAX_NAME = 1000


class Ask(Protocol):
    """The values of a list input, from ComfyUI. They may be cached unless `fresh`."""

    def __call__(self, class_type: str, name: str, *, fresh: bool = True) -> list[str]: ...


@dataclass(frozen=True)
class Choice:
    """A string from the list that ComfyUI has for one input of a node class.

    The validation context provides the list: {"options": Ask}. Without a context any string is valid, and ComfyUI
    validates it.
    """

    class_type: str
    name: str

    def offers(self, value: str, ask: Ask) -> bool:
        """Whether ComfyUI has the value, by its cached list or else by its current one."""
        return value in ask(self.class_type, self.name, fresh=False) or value in ask(self.class_type, self.name)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # emulator/routes/openapi.py replaces it with the list.
        return {**handler(schema), CHOICE: f"{self.class_type}.{self.name}"}

    def _check(self, value: str, info: ValidationInfo) -> str:
        ask: Ask | None = (info.context or {}).get("options")
        if ask is None or self.offers(value, ask):
            return value
        known = ask(self.class_type, self.name)
        near = difflib.get_close_matches(value[:_MAX_NAME], known, n=_MAX_HINTS, cutoff=0.4) or known[:_MAX_HINTS]
        hint = f"did you mean {', '.join(map(repr, near))}?" if near else "ComfyUI has no values"
        raise ValueError(f"{shorten(value)!r} is not one of ComfyUI's {len(known)} values; {hint}")


CHOICE = "x-comfyui-choice"

Sampler = Annotated[str, Choice("KSampler", "sampler_name")]
Scheduler = Annotated[str, Choice("KSampler", "scheduler")]
CHECKPOINT = Choice("CheckpointLoaderSimple", "ckpt_name")
Checkpoint = Annotated[str, CHECKPOINT]


def random_seed(below: int) -> Any:
    """A seed field. Its default is a random number below `below`, which the answer's `input` shows."""
    return Field(
        default_factory=lambda: random.randrange(below),
        description="Seed of the random number generator. Default: a random one.",
    )
