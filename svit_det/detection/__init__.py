"""The part that uses detectron2. Importing it registers backbones and meta-architectures.

No other folder of the package imports detectron2.
"""

try:
    import detectron2  # noqa: F401
except ImportError as error:
    raise ImportError(
        "svit_det.detection needs detectron2, which the package index does not have under its own "
        "name: run `make setup`, or `python tools/setup/install_detectron2.py` in your "
        "environment, or install it from its official source."
    ) from error

from svit_det.detection import adapter_backbone, backbone, meta_arch  # noqa: F401  (registration)
from svit_det.detection.config import add_svit_config
from svit_det.detection.config_file import load_config
from svit_det.detection.prediction import Prediction, coco_json
from svit_det.detection.predictor import Predictor, Unread
from svit_det.detection.trained import read_trained
from svit_det.shipped import get_config_file, get_weights_file
from svit_det.vit import record_passes

__all__ = [
    "Prediction",
    "Predictor",
    "Unread",
    "add_svit_config",
    "coco_json",
    "get_config_file",
    "get_weights_file",
    "load_config",
    "read_trained",
    "record_passes",
]
