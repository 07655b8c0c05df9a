"""Image classification over the same trunk, policies and executors as detection; no detectron2."""
