"""Package metadata. Pinned versions that were tested together are in requirements.txt.

Two things are left out of the requirements on purpose. detectron2 is not on the package index under
its own name: tools/setup/install_detectron2.py brings it, or keeps the one that is there. OpenCV
exists as opencv-python and as opencv-python-headless, which own the same files: either will do.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
# Read, not imported: at build time the package's requirements are not there yet.
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "svit_det/__init__.py").read_text(), re.M)
# The yaml files and weights of configs/ become data of the package; see svit_det/shipped.py.
CONFIGS = "svit_det.configs"
CONFIG_PACKAGES = [
    ".".join([CONFIGS, *path.relative_to(HERE / "configs").parts])
    for path in sorted([HERE / "configs", *(HERE / "configs").rglob("*")])
    if path.is_dir() and path.name != "__pycache__"
]

# The site and its notebook.
DOCS = [
    *("mkdocs-material>=9.5,<10", "mkdocstrings-python>=1.10", "mkdocs-jupyter>=0.25"),
    *("nbclient>=0.10", "ipykernel>=6.29"),
]

setup(
    name="svit_det",
    version=VERSION.group(1),
    description="Vision transformers that skip tokens, for detection and segmentation (detectron2)",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The svit_det authors",
    url="https://arxiv.org/abs/2306.07050",  # the method's paper
    keywords=["token pruning", "vision transformer", "object detection", "detectron2"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    license="Apache-2.0",
    # Under which terms the weights are that come along.
    license_files=["LICENSE", "configs/demo/WEIGHTS.md", "configs/digits/WEIGHTS.md"],
    packages=[*find_packages(include=["svit_det", "svit_det.*"]), *CONFIG_PACKAGES],
    package_dir={CONFIGS: "configs"},
    package_data={
        "svit_det": ["py.typed"],  # tells type checkers that ours are to be believed
        "svit_det.report": ["page.*"],
        **{name: ["*.yaml", "*.safetensors", "*.md"] for name in CONFIG_PACKAGES},
    },
    entry_points={"console_scripts": ["svit-det = svit_det.cli.program:main"]},
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
        "jinja2>=3.0",
        "markupsafe>=2.0",
    ],
    extras_require={
        "data": ["tifffile>=2022.2", "imagecodecs>=2022.2"],  # tools/setup/prepare_nuclei.py
        "export": ["onnx>=1.19", "onnxscript>=0.5", "onnxruntime>=1.23", "openvino>=2025.4"],
        "video": ["imageio-ffmpeg>=0.5"],
        "classification": ["timm>=0.9,<2"],
        "docs": DOCS,
        "test": [
            *DOCS,
            "imageio-ffmpeg>=0.5",
            "selenium>=4.10",  # the report in a real browser, where there is one
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
