"""`python -m svit_det`: the same as the command `svit-det`."""

import sys

from svit_det.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
