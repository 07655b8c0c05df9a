#!/usr/bin/env python3
"""Write the table of docs/policies.md, what each policy does; with --check, say if it is fresh."""

from __future__ import annotations

from svit_det.startup import prepare_process

prepare_process()

import sys

from svit_det.cli.policy_table import main

if __name__ == "__main__":
    problem = main(sys.argv[1:])
    if problem:
        sys.exit(f"policy_table.py: {problem}")
