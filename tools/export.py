#!/usr/bin/env python3
"""Exports a trained detector to files that run without this package: .pt2, ONNX, OpenVINO."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("export"))
