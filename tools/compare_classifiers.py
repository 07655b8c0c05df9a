#!/usr/bin/env python3
"""Every policy fine-tuned alike from one dense classifier, several seeds each, in one table."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("compare-classifiers"))
