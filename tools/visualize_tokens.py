#!/usr/bin/env python3
"""Draw what a trained detector finds and which tokens it spends its blocks on."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("visualize"))
