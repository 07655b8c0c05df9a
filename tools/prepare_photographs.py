#!/usr/bin/env python3
"""Make the set of photographs: 210 in 8 groups, in ImageNet's layout."""

from __future__ import annotations

import sys

from svit_det.cli.prepare_photographs import main

if __name__ == "__main__":
    problem = main(sys.argv[1:])
    if problem:
        sys.exit(f"prepare_photographs.py: {problem}")
