"""Command lines: what `svit-det` and the scripts in tools/ run. Importing this imports nothing."""
