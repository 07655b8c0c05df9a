#!/usr/bin/env python3
"""What only a device can tell: see svit_det/cli/device_checks.py."""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import sys

from svit_det.cli.device_checks import main

if __name__ == "__main__":
    problem = main(sys.argv[1:])
    sys.exit(f"device_checks.py: {problem}" if problem else 0)
