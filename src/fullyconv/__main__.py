"""``python -m fullyconv`` is the command line."""

import sys

from fullyconv.cli import main

if __name__ == "__main__":
    sys.exit(main())
