#!/usr/bin/env python3
"""A trained detector as files that run without this package: torch.export, ONNX, OpenVINO."""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import sys

from svit_det.cli.export import main

if __name__ == "__main__":
    problem = main(sys.argv[1:])
    if problem:
        sys.exit(f"export.py: {problem}")
