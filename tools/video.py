#!/usr/bin/env python3
"""A film with what a detector finds beside the heat map, and usage over time below."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("video"))
