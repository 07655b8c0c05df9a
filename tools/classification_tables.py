#!/usr/bin/env python3
"""The layouts of the supplementary's tables 1 and 2, for any list of trained classifiers."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("classification-tables"))
