"""Field types whose values ComfyUI reports. What workflow files import, besides pydantic."""

import difflib
import random
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from handler.urls import shorten

_NEAREST = 3
# What is longer is like no name, and it would take minutes to find that out.
_LONGEST_NAME = 1000


class Ask(Protocol):
    """Asks ComfyUI for the values of a list input; those that it gave last will do unless `fresh`."""

    def __call__(self, class_type: str, name: str, *, fresh: bool = True) -> list[str]: ...


@dataclass(frozen=True)
class Choice:
    """A string out of the list that ComfyUI offers for one input of one node class.

    The list is asked for when a value is checked, through the validation context: {"options": Ask}.
    Without a context any string passes, and ComfyUI's own validation decides.
    """

    class_type: str
    name: str

    def offers(self, value: str, ask: Ask) -> bool:
        """Whether ComfyUI has the value: as it said last, or else as it says now."""
        return value in ask(self.class_type, self.name, fresh=False) or value in ask(self.class_type, self.name)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # The OpenAPI document puts the names in its place.
        return {**handler(schema), CHOICE: f"{self.class_type}.{self.name}"}

    def _check(self, value: str, info: ValidationInfo) -> str:
        ask: Ask | None = (info.context or {}).get("options")
        if ask is None or self.offers(value, ask):
            return value
        known = ask(self.class_type, self.name)
        near = difflib.get_close_matches(value[:_LONGEST_NAME], known, n=_NEAREST, cutoff=0.4) or known[:_NEAREST]
        hint = f"did you mean {', '.join(map(repr, near))}?" if near else "ComfyUI has none"
        raise ValueError(f"{shorten(value)!r} is not one of ComfyUI's {len(known)} values; {hint}")


CHOICE = "x-comfyui-choice"

Sampler = Annotated[str, Choice("KSampler", "sampler_name")]
Scheduler = Annotated[str, Choice("KSampler", "scheduler")]
CHECKPOINT = Choice("CheckpointLoaderSimple", "ckpt_name")
Checkpoint = Annotated[str, CHECKPOINT]


def random_seed(below: int) -> Any:
    """The default of a seed field: drawn per request, and shown in the answer's `input`."""
    return Field(
        default_factory=lambda: random.randrange(below),
        description="Seed of the random number generator. Default: drawn per request.",
    )
