"""Give the outputs to the caller: as base64 in the answer."""

import pybase64

from handler.outputs import Output


def inline(outputs: list[Output]) -> list[str]:
    """Every output file as base64, in order. Texts are no files; the answer's `outputs` holds them."""
    return [pybase64.b64encode_as_string(output.content) for output in outputs if output.filename is not None]
