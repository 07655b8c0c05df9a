#!/usr/bin/env python3
"""Write docs/config_keys.md, the table of all config keys; with --check, say if it is fresh."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("config-keys"))
