#!/usr/bin/env python3
"""How closely a trained model meets the budgets of TEST_KEEP_RATIO on pictures."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("budgets"))
