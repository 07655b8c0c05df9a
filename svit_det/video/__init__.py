"""Films: reading frame by frame, drawing detections and usage, writing for browsers."""
