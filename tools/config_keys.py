#!/usr/bin/env python3
"""Write docs/config_keys.md, the table of all config keys; with --check, say if it is fresh."""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import sys

from svit_det.cli.config_keys import main

if __name__ == "__main__":
    problem = main(sys.argv[1:])
    if problem:
        sys.exit(f"config_keys.py: {problem}")
