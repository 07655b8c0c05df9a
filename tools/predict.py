#!/usr/bin/env python3
"""Detections of pictures, folders and films, as pictures, COCO json and a table."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("predict"))
