#!/usr/bin/env python3
"""A trained detector as files that run without this package: torch.export, ONNX, OpenVINO."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("export"))
