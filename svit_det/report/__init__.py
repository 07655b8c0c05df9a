"""The report: one self-contained HTML page about detections and kept tokens."""
