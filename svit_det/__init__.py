"""Vision transformers that skip tokens, for object detection and segmentation.

Importing this package imports nothing heavy; `import svit_det.detection` registers everything with
detectron2.
"""

__version__ = "0.1.0"
