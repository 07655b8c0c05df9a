"""Which room may import which, read from the syntax trees."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*ROOT.glob("svit_det/**/*.py"), *ROOT.glob("tools/**/*.py")])
STANDARD = sys.stdlib_module_names

CORE = {"tokens", "policies", "vit", "adapter"}
# Room -> the rooms that it may import. OPEN is for every room but OPEN's own.
MAY_IMPORT = {
    "__init__": set(),
    "errors": set(),
    "settings": {"errors"},
    "files": {"errors"},
    "streams": set(),
    "interrupts": set(),
    "startup": {"streams", "interrupts"},
    "shipped": set(),
    "__main__": {"cli"},
    "results": {"files"},
    "images": set(),
    "annotations": {"files", "results", "images"},
    "tokens": set(),
    "policies": {"tokens"},
    "vit": {"tokens", "policies"},
    "adapter": {"tokens", "vit"},
    "training": {"files", "tokens", "policies", "vit"},
    "weights": {"files", "vit"},
    "config": {"policies", "vit"},
    "visualization": {"files", "tokens"},
    "report": {"files", "tokens", "visualization"},
    "video": {"files", "images", "visualization"},
    "benchmark": CORE,
    "export": {"tokens", "vit"},
    "detection": {
        *CORE,
        *("files", "interrupts", "shipped", "results", "images", "config", "annotations"),
        *("training", "weights", "visualization", "export"),
    },
    "classification": {
        *CORE - {"adapter"},
        *("files", "interrupts", "shipped", "results", "images", "training", "weights", "config"),
    },
}
MAY_IMPORT["comparison"] = {*MAY_IMPORT["detection"], "detection", "benchmark"}
MAY_IMPORT["cli"] = {*MAY_IMPORT}
MAY_IMPORT["tools"] = {*MAY_IMPORT}
OPEN = {"errors", "settings", "__version__"}
WITHOUT_OPEN = {"__init__", "errors", "settings", "files", "streams", "interrupts", "startup"}
WITH_DETECTRON2 = {"detection", "comparison", "cli", "tools"}
# Other people's packages that a room may use. A room that is not here may use any but detectron2.
PACKAGES = {
    "__init__": set(),
    "errors": set(),
    "settings": set(),
    "files": set(),
    # These three run before torch is imported.
    "streams": set(),
    "interrupts": set(),
    "startup": set(),
    "shipped": set(),
    "__main__": set(),
    "results": set(),
    "images": {"numpy", "PIL"},
    "annotations": {"numpy", "tqdm"},
    "tokens": {"torch", "numpy"},
    "policies": {"torch", "fvcore"},
    "vit": {"torch"},
    "adapter": {"torch", "torchvision"},
    "config": {"torch", "fvcore", "yaml"},
    "training": {"torch", "numpy"},  # numpy for the state of its random numbers alone
    "weights": {"torch", "safetensors"},
    "visualization": {"numpy", "cv2", "matplotlib", "PIL"},
    "report": {"numpy", "cv2", "jinja2", "markupsafe"},
    # The encoder's package is imported by name where a film is written.
    "video": {"numpy", "cv2"},
    # The runtimes are imported by name where one is asked for, so that none is needed to import it.
    "export": {"torch", "torchvision", "numpy"},
}
# What vit may know of the policies: the contract, and the ranking that policies share.
FOR_VIT = ("policies.base.", "policies.ranking.")


def room_of(path):
    parts = path.relative_to(ROOT).parts
    return "tools" if parts[0] == "tools" else parts[1].removesuffix(".py")


def imported(source):
    """Dotted names: `from a.b import c` is a.b.c, a relative import starts with a dot."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names
            )
        elif ast.unparse(node) == "torch.distributed":  # reached through `import torch`
            yield "torch.distributed"


def wrong_imports(source, room):
    """What this source text may not import where it stands, and why."""
    open_rooms = set() if room in WITHOUT_OPEN else OPEN
    for name in imported(source):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if not top:
            yield f"{name}: imports are absolute"
        elif top == "tools":
            yield f"{name}: tools/ holds scripts, and detectron2 may bring a package of that name"
        elif top == "svit_det":
            if target not in {*MAY_IMPORT.get(room, ()), *open_rooms, room} or room == "errors":
                yield f"{name}: not for {room}"
            elif room == "vit" and target == "policies" and not rest.startswith(FOR_VIT):
                yield f"{name}: vit knows the contract of the policies, and no policy"
        elif top == "detectron2" and room not in WITH_DETECTRON2:
            yield f"{name}: detectron2 stays in {', '.join(sorted(WITH_DETECTRON2))}"
        elif name.startswith("torch.distributed") and room in CORE:
            yield f"{name}: what is done over all processes is handed in"
        elif top not in STANDARD and top not in PACKAGES.get(room, {top}):
            yield f"{name}: not for {room}"


def test_every_room_is_in_the_table():
    rooms = {room_of(path) for path in SOURCES}
    assert rooms <= set(MAY_IMPORT), "say in MAY_IMPORT what the new room may import"


def test_no_room_imports_what_is_not_for_it():
    wrong = {
        str(path.relative_to(ROOT)): problems
        for path in SOURCES
        if (problems := list(wrong_imports(path.read_text(), room_of(path))))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("tokens", "from svit_det.policies import TokenPolicy"),
        ("tokens", "from svit_det import policies"),
        ("tokens", "import fvcore"),
        ("policies", "import svit_det.vit.layers"),
        ("policies", "import detectron2"),
        ("policies", "import torch.distributed as dist"),
        ("policies", "from torch import distributed"),
        ("policies", "from torch.distributed import all_reduce"),
        ("policies", "def late():\n    return dist(torch.distributed)"),
        ("vit", "from svit_det.policies.svit import SViT"),
        ("vit", "from svit_det.policies import TokenPolicy"),
        ("vit", "def late():\n    from detectron2.layers import ShapeSpec"),
        ("vit", "from svit_det.adapter import ViTAdapter"),
        ("vit", "from .layers import Block"),
        ("adapter", "from svit_det.policies.base import TokenPolicy"),
        ("training", "from svit_det.adapter import ViTAdapter"),
        ("training", "from svit_det.detection import load_config"),
        ("training", "import detectron2"),
        ("weights", "from svit_det.policies.svit import SViT"),
        ("weights", "from detectron2.checkpoint import DetectionCheckpointer"),
        ("config", "from detectron2.config import CfgNode"),
        ("config", "from svit_det.detection import load_config"),
        ("classification", "from detectron2.config import get_cfg"),
        ("classification", "from svit_det.detection.keys import GROUPS"),
        ("classification", "from svit_det.adapter import ViTAdapter"),
        ("images", "import torch"),
        ("images", "import cv2"),
        ("files", "from svit_det.results import write_json"),
        ("files", "from svit_det.settings import Settings"),
        ("settings", "from svit_det.files import write_whole"),
        ("settings", "import torch"),
        ("startup", "from svit_det.errors import InputError"),
        ("visualization", "import torch"),
        ("visualization", "from detectron2.utils.visualizer import Visualizer"),
        ("visualization", "from svit_det.vit import PlainViT"),
        ("errors", "from svit_det.errors import InputError"),
        ("__init__", "import torch"),
        ("detection", "from svit_det.cli import main"),
        ("detection", "from svit_det.benchmark import timing"),
        ("detection", "from tools.train_net import main"),
        ("cli", "import tools.train_net"),
        ("tools", "import tools.train_net"),
        ("benchmark", "from detectron2.config import get_cfg"),
        ("export", "from detectron2.structures import Boxes"),
        ("export", "import onnxruntime"),
        ("export", "from svit_det.detection import load_config"),
        ("vit", "from svit_det.export.program import export_program"),
        ("benchmark", "from svit_det.detection import load_config"),
        ("a room that is not in the table", "from svit_det.tokens import Selection"),
    ],
)
def test_the_rules_bite(room, source):
    assert len(list(wrong_imports(source, room))) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("tokens", "import torch\nimport numpy\nfrom svit_det.tokens.state import Selection"),
        (
            "policies",
            "from svit_det.errors import InputError\nfrom svit_det.tokens import Selection",
        ),
        ("policies", "from svit_det.settings import setting\nfrom torch.distributions import Beta"),
        ("vit", "from svit_det.policies.base import TokenPolicy"),
        ("training", "import torch.distributed\nfrom svit_det.policies.dense import Dense"),
        ("settings", "from svit_det.errors import InputError"),
        ("classification", "import timm\nfrom svit_det.config.declared import add_keys"),
        ("detection", "import detectron2\nfrom svit_det.vit import PlainViT"),
        ("detection", "from svit_det import __version__"),
        ("cli", "import detectron2\nfrom svit_det.detection import load_config"),
        ("tools", "from svit_det.cli.config_keys import main"),
        ("visualization", "import os\nimport cv2\nfrom matplotlib.figure import Figure"),
        ("visualization", "from svit_det.tokens import TokenGrid"),
    ],
)
def test_the_rules_let_through(room, source):
    assert list(wrong_imports(source, room)) == []


# ------------------------------------------------------------------ what really is imported


def imports_of(statement):
    """Which of some heavy packages Python has after `statement`."""
    heavy = ("torch", "detectron2", "numpy", "cv2")
    code = f"import sys; {statement}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return ast.literal_eval(done.stdout.strip())


@pytest.mark.parametrize(
    "names",
    [
        "svit_det",
        "svit_det.errors, svit_det.settings, svit_det.files, svit_det.startup, svit_det.shipped",
        "svit_det.cli.program, svit_det.cli.execution, svit_det.cli.options, svit_det.cli.output",
        "svit_det.cli.doctor",
    ],
)
def test_what_imports_nothing_heavy(names):
    assert imports_of(f"import {names}") == []


def test_pictures_are_read_without_torch():
    assert imports_of("import svit_det.images") == ["numpy"]


def test_the_core_rooms_run_without_detectron2():
    own = {path.parent.name for path in SOURCES if room_of(path) != "tools"}
    rooms = sorted(own - WITH_DETECTRON2 - {"svit_det"})
    assert set(rooms) > CORE
    modules = ", ".join(
        f"svit_det.{room}.{path.stem}"
        for room in rooms
        for path in SOURCES
        if path.parent.name == room and path.stem != "__init__"
    )
    code = f"import sys; sys.modules['detectron2'] = None; import {modules}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
