#!/usr/bin/env python3
"""Train an image classifier whose blocks skip tokens, or evaluate one."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("classify"))
