#!/usr/bin/env python3
"""The figures of the supplementary on your pictures: attention, reuse, usage."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("figures"))
