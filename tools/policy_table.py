#!/usr/bin/env python3
"""Write docs/policies.md's table of what each policy does; with --check, say if it is fresh."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("policy-table"))
