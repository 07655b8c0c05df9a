#!/usr/bin/env python3
"""A film with what a detector finds beside the heat map, and usage over time below."""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import sys

from svit_det.cli.video import main

if __name__ == "__main__":
    problem = main(sys.argv[1:])
    if problem:
        sys.exit(f"video.py: {problem}")
