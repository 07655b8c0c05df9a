"""Command lines: what the scripts in tools/ run."""
