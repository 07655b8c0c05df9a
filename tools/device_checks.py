#!/usr/bin/env python3
"""Checks that need the device itself: see svit_det/cli/device_checks.py."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("device-checks"))
