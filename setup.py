"""Package metadata. Pinned versions that were tested together are in requirements.txt.

Two things are left out of the requirements on purpose. detectron2 is not on the package index under
its own name: tools/install_detectron2.py brings it, or keeps the one that is there. OpenCV exists
as opencv-python and as opencv-python-headless, which own the same files: either will do.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
# Read, not imported: at build time the package's requirements are not there yet.
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "svit_det/__init__.py").read_text(), re.M)

setup(
    name="svit_det",
    version=VERSION.group(1),
    description="Vision transformers that skip tokens, for detection and segmentation (detectron2)",
    license="Apache-2.0",
    packages=find_packages(include=["svit_det", "svit_det.*"]),
    package_data={"svit_det": ["py.typed"]},  # tells type checkers that ours are to be believed
    python_requires=">=3.10",
    install_requires=[
        "setuptools<82",  # detectron2 imports pkg_resources, which 82 no longer has
        "torch>=2.7",  # nonzero_static on CUDA
        "torchvision>=0.22",
        "numpy>=1.23",
        "pillow>=9.1",
        "matplotlib>=3.5",
        "fvcore>=0.1.5",
        "iopath>=0.1.7",
        "omegaconf>=2.1,<2.4",  # detectron2's lazy configs
        "hydra-core>=1.1",
        "yacs>=0.1.8",
        "pycocotools>=2.0.2",
        "tensorboard>=2.10",
        "termcolor>=1.1",
        "tabulate>=0.8",
        "cloudpickle>=2.0",
        "tqdm>4.29",
        "packaging>=21.0",
        "scipy>=1.8",
        "shapely>=1.8",  # polygon masks meet a crop in detectron2's augmentations
        "safetensors>=0.3",
    ],
    extras_require={
        "data": ["tifffile>=2022.2", "imagecodecs>=2022.2"],  # tools/prepare_nuclei.py
        "export": ["onnx>=1.19", "onnxscript>=0.5", "onnxruntime>=1.23", "openvino>=2025.4"],
        "test": [
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "timm>=0.9,<2",  # the DeiT ours equals
            # What exported files run on: their tests fail without, they are not skipped.
            *("onnx>=1.19", "onnxscript>=0.5", "onnxruntime>=1.23", "openvino>=2025.4"),
        ],
        "style": ["ruff>=0.9", "codespell>=2.3", "mypy>=1.11", "pre-commit>=3.2"],
    },
)
