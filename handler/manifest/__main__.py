"""`python -m handler.manifest FILE`: checks a manifest, or installs it with --build."""

import sys

from handler.manifest.install import main

if __name__ == "__main__":
    sys.exit(main())
