"""The file that the RunPod Hub looks for: the worker, `python -m handler`, started from anywhere."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent)
    os.execv(sys.executable, [sys.executable, "-m", "handler", *sys.argv[1:]])
