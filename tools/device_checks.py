#!/usr/bin/env python3
"""What only a device can tell: see svit_det/cli/device_checks.py."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("device-checks"))
