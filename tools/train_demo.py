#!/usr/bin/env python3
"""Train the demo's models: a dense parent, then SViT from it, without and with the adapter."""

import sys

from svit_det.cli.program import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("train-demo"))
