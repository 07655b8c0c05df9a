#!/usr/bin/env python3
"""Train a token-pruned detector, or evaluate one: see svit_det/cli/train_net.py."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("train"))
