"""Who may import whom, read from the syntax trees; and a few habits that reviews forget."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*ROOT.glob("svit_det/**/*.py"), *ROOT.glob("tools/**/*.py")])
STANDARD = sys.stdlib_module_names
MAX_LINES = 320

# Room -> the rooms to its left, which it may import; errors.py is open to everyone.
MAY_IMPORT = {
    "__init__": set(),
    "errors": set(),
    "startup": set(),
    "results": set(),
    "tokens": set(),
    "policies": {"tokens"},
    "vit": {"tokens", "policies"},
    "adapter": {"tokens", "vit"},
    "weights": set(),
    "visualization": set(),
    "benchmark": {"tokens", "policies", "vit", "adapter"},
    "detection": {"results", "tokens", "policies", "vit", "adapter", "visualization"},
}
MAY_IMPORT["tools"] = set(MAY_IMPORT)
WITH_DETECTRON2 = {"detection", "tools"}
# Other people's packages that a room may use. A room that is not here may use any but detectron2.
PACKAGES = {
    "__init__": set(),
    "errors": set(),
    "startup": set(),  # it runs before torch is imported
    "results": set(),
    "tokens": {"torch"},
    "policies": {"torch", "fvcore"},
    "vit": {"torch"},
    "adapter": {"torch", "torchvision"},
    "weights": {"torch", "safetensors"},
    "visualization": {"numpy", "cv2", "matplotlib"},
}
# Modules of which one room may see a part only.
NOT_FOR = {
    "policies": (
        "svit_det.tokens.packing",
        "svit_det.tokens.Segments",
        "svit_det.tokens.gather_tokens",
        "svit_det.tokens.scatter_tokens",
    ),
}
FORWARD_METHODS = {"forward", "before_block", "after_attention", "after_block"}


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


def wrong_imports(source, room):
    """What this source text may not import where it stands, and why."""
    for name in imported(source):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if not top:
            yield f"{name}: imports are absolute"
        elif top == "tools":
            yield f"{name}: tools/ holds scripts, and detectron2 may bring a package of that name"
        elif top == "svit_det":
            if target not in {room, "errors", *MAY_IMPORT.get(room, ())} or room == "errors":
                yield f"{name}: not for {room}"
            if room == "vit" and target == "policies":
                if not rest.startswith("policies.base."):
                    yield f"{name}: vit knows policies.base only"
            if name.startswith(NOT_FOR.get(room, ())):
                yield f"{name}: not for {room}"
        elif top == "detectron2" and room not in WITH_DETECTRON2:
            yield f"{name}: detectron2 stays in detection and tools"
        elif top not in STANDARD and top not in PACKAGES.get(room, {top}):
            yield f"{name}: not for {room}"


def attributes_set_in_forward(source):
    """`Class.method: self.name` for each attribute of self assigned while a forward pass runs."""
    for owner in ast.walk(ast.parse(source)):
        if not isinstance(owner, ast.ClassDef):
            continue
        for method in owner.body:
            if getattr(method, "name", None) not in FORWARD_METHODS:
                continue
            for node in ast.walk(method):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    if isinstance(node.value, ast.Name) and node.value.id == "self":
                        yield f"{owner.name}.{method.name}: self.{node.attr}"


def findings(check):
    return [f"{path.relative_to(ROOT)}: {problem}" for path in SOURCES for problem in check(path)]


def test_every_room_is_in_the_table():
    rooms = {room_of(path) for path in SOURCES}
    assert rooms <= set(MAY_IMPORT), "say in MAY_IMPORT what the new room may import"


def test_nobody_imports_to_the_right():
    assert findings(lambda path: wrong_imports(path.read_text(), room_of(path))) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("tokens", "from svit_det.policies import Dense"),
        ("tokens", "from svit_det import policies"),
        ("tokens", "import fvcore"),
        ("policies", "import svit_det.vit.layers"),
        ("policies", "from svit_det.tokens.packing import pack_index"),
        ("policies", "from svit_det.tokens import Segments"),
        ("policies", "import detectron2"),
        ("vit", "from svit_det.policies.svit import SViT"),
        ("vit", "from svit_det.policies import Dense"),
        ("vit", "def late():\n    from detectron2.layers import ShapeSpec"),
        ("vit", "from svit_det.adapter import ViTAdapter"),
        ("adapter", "from svit_det.policies import Dense"),
        ("weights", "from svit_det.vit import TokenTrunk"),
        ("visualization", "import torch"),
        ("visualization", "from detectron2.utils.visualizer import Visualizer"),
        ("visualization", "from svit_det.tokens import TokenTrace"),
        ("errors", "from svit_det.errors import InputError"),
        ("__init__", "import torch"),
        ("detection", "from tools.train_net import main"),
        ("tools", "import tools.train_net"),
        ("vit", "from .layers import Block"),
        ("benchmark", "from detectron2.config import get_cfg"),
        ("benchmark", "from svit_det.detection import load_config"),
        ("a room nobody knows", "from svit_det.tokens import Selection"),
    ],
)
def test_the_rules_bite(room, source):
    assert len(list(wrong_imports(source, room))) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("tokens", "import torch\nfrom svit_det.tokens.state import Selection"),
        (
            "policies",
            "from svit_det.errors import InputError\nfrom svit_det.tokens import Selection",
        ),
        ("vit", "from svit_det.policies.base import TokenPolicy"),
        ("detection", "import detectron2\nfrom svit_det.vit import PlainViT"),
        ("tools", "from svit_det.detection import load_config"),
        ("visualization", "import os\nimport cv2\nfrom matplotlib.figure import Figure"),
    ],
)
def test_the_rules_let_through(room, source):
    assert list(wrong_imports(source, room)) == []


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, svit_det; "
        "print([name for name in ('torch', 'detectron2', 'numpy', 'cv2') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_core_rooms_run_without_detectron2():
    code = "import sys; sys.modules['detectron2'] = None; import svit_det.policies, svit_det.vit"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_no_forward_pass_leaves_anything_on_a_module():
    assert findings(lambda path: attributes_set_in_forward(path.read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        "self.trace = x",
        "self.a, self.b = x, x",
        "self.count += 1",
        "self.x: int = 1",
        "for self.i in x: pass",
    ],
)
def test_an_attribute_set_in_forward_is_found(line):
    method = f"class Gate:\n    def {{}}(self, x):\n        {line}"
    assert len(list(attributes_set_in_forward(method.format("forward")))) >= 1
    assert list(attributes_set_in_forward(method.format("__init__"))) == []


def test_there_is_no_utils():
    named = [
        path
        for folder in ("svit_det", "tools", "tests")
        for path in ROOT.glob(f"{folder}/**/utils*")
    ]
    assert [path for path in named if path.suffix == ".py" or path.is_dir()] == []


def test_files_stay_short():
    lengths = {path: len(path.read_text().splitlines()) for path in SOURCES}
    assert {path.name: n for path, n in lengths.items() if n > MAX_LINES} == {}
