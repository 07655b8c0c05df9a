#!/usr/bin/env python3
"""A film with the detections beside the heat map, and the usage over time below both."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("video"))
