"""Draws the pictures in images/: the README's request, and /docs in a browser."""

import base64
import re
import tempfile
import time
from pathlib import Path

import requests

from tests.support import browser
from tests.support.paths import ROOT
from tests.support.processes import environment, running

IMAGES = ROOT / "images"
REQUEST = {
    "input": {"prompt": "8-bit video game art of a salad", "seed": 253091131172871},
    "convert_output": {"format": "webp", "options": {"quality": 90}},
}


def main() -> None:
    with tempfile.TemporaryDirectory() as home, running("emulator", environment(Path(home))) as server:
        while "ready at" not in server.text():
            time.sleep(0.05)
        url = re.findall(r"ready at (\S+),", server.text())[0]
        answer = requests.post(f"{url}/workflow/flux/txt2img", json=REQUEST, timeout=60).json()
        (IMAGES / "salad.webp").write_bytes(base64.b64decode(answer["images"][0]))
        browser.screenshot(f"{url}/docs", IMAGES / "docs.png", height=1290)


if __name__ == "__main__":
    main()
