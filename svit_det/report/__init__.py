"""The report: one self-contained HTML page about what was found and which tokens were kept."""
