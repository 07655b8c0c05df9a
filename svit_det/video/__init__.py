"""Films: read frame by frame, drawn with detections and usage, written for browsers."""
