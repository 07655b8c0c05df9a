"""What `pip install .` brings: a source distribution, the wheel made from it, and their use.

The commands run in an empty folder, in an environment that has torch and detectron2 and finds this
package only where the wheel was unpacked to.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from svit_det import __version__
from svit_det.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    *("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CITATION.cff"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile", "mkdocs.yml"),
    *("requirements.txt", "requirements.lock"),
    *("svit_det", "configs", "tools", "examples", "docs"),
)
WITHOUT = shutil.ignore_patterns("__pycache__", "*.egg-info")


def run(command, *, folder, **others):
    done = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, **others
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """(source distribution, the wheel that was built from it), without a network."""
    folder = tmp_path_factory.mktemp("distributions")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name, **({"ignore": WITHOUT} if (ROOT / name).is_dir() else {}))
    build = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    run([sys.executable, "-c", build], folder=folder)
    (source,) = (folder / "dist").glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    run([*pip, "wheel", *offline, "--wheel-dir", folder / "wheels", source], folder=folder)
    (wheel,) = (folder / "wheels").glob("*.whl")
    return source, wheel


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory):
    """The folder that holds the unpacked wheel, with its command in bin/."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    command += ["--no-deps", "--no-index", "--target", folder, distributions[1]]
    run(command, folder=folder)
    return folder


@pytest.fixture
def svit_det(installed, tmp_path):
    """Factory: the command `svit-det` in an empty folder; its result under --json, else stdout."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "CUDA_VISIBLE_DEVICES": ""}

    def call(*arguments):
        command = [installed / "bin/svit-det", *arguments]
        done = run(command, folder=tmp_path, env=environment)
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    call.environment = environment
    return call


def terms_of_weights():
    """The page of each folder with weights, under configs/."""
    weights = (ROOT / "configs").rglob("*.safetensors")
    return {(path.parent / "WEIGHTS.md").relative_to(ROOT).as_posix() for path in weights}


def test_every_folder_with_weights_says_their_terms():
    """Beside the weights, in the package's licence files and on the site."""
    assert len(terms_of_weights()) == 2
    packaging, site = ((ROOT / name).read_text() for name in ("setup.py", "docs/outside_pages.py"))
    for path in terms_of_weights():
        text = (ROOT / path).read_text()
        assert all(each.name in text for each in (ROOT / path).parent.glob("*.safetensors"))
        assert "Apache-2.0" in text and f'"{path}"' in packaging and f'"{path}"' in site


def test_a_source_distribution_is_asked_to_hold_every_page_and_list():
    manifest = (ROOT / "MANIFEST.in").read_text().split()
    pages = {path.name for path in ROOT.glob("*.md")} - {"README.md"}  # that one always comes
    lists = {path.name for path in ROOT.glob("requirements.*")}
    assert pages | lists | {"mkdocs.yml", "docs", "examples", "Makefile"} <= set(manifest)


@pytest.mark.long
def test_the_distributions_hold_what_ships(distributions):
    source, wheel = distributions
    shipped = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "configs").rglob("*")
        if path.suffix in (".yaml", ".safetensors", ".md")
    }
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert shipped | {"CITATION.cff", "LICENSE", "tools/train_net.py"} <= names
    assert {name for name in SOURCES if (ROOT / name).is_file()} <= names
    tracked = {
        path.relative_to(ROOT).as_posix()
        for folder in ("docs", "examples")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert tracked and tracked <= names
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"svit_det-{__version__}.dist-info"
        about = message_from_string(archive.read(f"{info}/METADATA").decode())
    assert {f"svit_det/{name}" for name in shipped} | {"svit_det/py.typed"} <= names
    assert not {name for name in names if name.startswith(("tools", "tests", "configs"))}
    assert {f"{info}/licenses/{path}" for path in terms_of_weights()} <= names
    assert about["Version"] == __version__ and about["License"] == "Apache-2.0"
    assert about["Description-Content-Type"] == "text/markdown"
    assert about.get_payload().lstrip().startswith("# svit_det")


@pytest.mark.long
def test_it_is_found_where_it_was_installed(svit_det, installed, tmp_path):
    code = f"""
import sys, svit_det.cli.train_net, svit_det.detection as detection
print(detection.__file__)
print(detection.get_config_file("svit_t"))
files = [str(getattr(module, "__file__", None)) for module in list(sys.modules.values())]
checkout = ({str(ROOT / "svit_det")!r}, {str(ROOT / "tools")!r})
print([file for file in files if file.startswith(checkout)])
"""
    done = run([sys.executable, "-c", code], folder=tmp_path, env=svit_det.environment)
    module, config, of_the_checkout = done.stdout.splitlines()
    assert Path(module).is_relative_to(installed) and Path(config).is_relative_to(installed)
    assert of_the_checkout == "[]"


@pytest.mark.long
def test_the_command_is_there_and_sees_its_surroundings(svit_det, installed):
    assert "commands:" in svit_det("--help")
    seen = {each["what"]: each for each in svit_det("doctor", "--json")["findings"]}
    assert str(installed) in seen["svit_det"]["seen"]
    assert str(installed) in seen["svit_det"]["follows"]
    assert {each["verdict"] for each in seen.values()} <= {"ok", "note"}


@pytest.mark.long
def test_weights_that_ship_see_a_picture(svit_det, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    given = ("--json", "--output", "drawn", "noise.png")
    result = svit_det("visualize", "--weights", "configs/demo/svit.safetensors", *given)
    assert list(result["pictures"]) == ["noise.png"]
    assert (tmp_path / "drawn/noise_keep_maps.png").is_file()
    again = svit_det("visualize", "--config-file", "demo/svit", "--overwrite", *given)
    assert again == result


@pytest.fixture
def disc(tmp_path):
    """A picture of one bright disc, in the folder that the commands run in."""
    rows, columns = np.mgrid[:256, :256]
    inside = (rows - 90) ** 2 + (columns - 120) ** 2 < 14**2
    Image.fromarray((inside * 200).astype(np.uint8)).save(tmp_path / "disc.png")


@pytest.mark.long
def test_a_picture_is_predicted_and_reported(svit_det, disc, tmp_path):
    given = ("--json", "--weights", "demo/svit")
    result = svit_det("predict", *given, "--output", "predicted", "disc.png")
    assert [row["name"] for row in result["pictures"]] == ["disc.png"] and not result["unread"]
    files = {path.name for path in (tmp_path / "predicted").iterdir()}
    assert files == {"disc.jpg", "coco.json", "results.json"}
    found = json.loads((tmp_path / "predicted/coco.json").read_text())
    assert [each["file_name"] for each in found["images"]] == ["disc.png"]

    numbers = svit_det("report", *given, "demo/dense", "--output", "page.html", "disc.png")
    assert [arm["label"] for arm in numbers["arms"]] == ["svit", "dense"]
    assert json.loads((tmp_path / "page.json").read_text()) == numbers
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and "disc.png" in page


@pytest.mark.long
def test_a_backbone_is_exported(svit_det, tmp_path):
    given = ("--json", "--weights", "demo/svit", "--size", "64", "96", "--budget", "0.5")
    only = ("--part", "backbone", "--formats", "onnx")
    result = svit_det("export", *given, *only, "--output", "exported")
    assert result["files"] == ["backbone.onnx"]
    assert result["about"]["policy"] == "SViT" and result["about"]["input"]["size"] == [64, 96]
    assert [path.name for path in (tmp_path / "exported").iterdir()] == result["files"]


@pytest.mark.long
def test_blocks_are_timed(svit_det, tmp_path):
    once = ("--images", "1", "--repeats", "1", "--warmup", "0", "--threads", "1", "--no-memory")
    toy = ("--parts", "blocks", "--tokens", "4", "6", "--batch-sizes", "1", "--device", "cpu")
    timed = svit_det("benchmark", "--json", "--config-file", "plain_svit_t", *once, *toy)
    assert [row["part"] for row in timed["rows"]] == ["blocks"]
    assert json.loads((tmp_path / "output/benchmark/results.json").read_text()) == timed


HELP_OF_ALL = """
import contextlib, io, json, sys
from svit_det.cli.commands import COMMANDS
from svit_det.cli.program import main
said = {}
for name in COMMANDS:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            main([name, "--help"])
        except SystemExit as ending:
            said[name] = [ending.code or 0, printed.getvalue()]
modules = [sys.modules["svit_det.cli." + command.module].__file__ for command in COMMANDS.values()]
print(json.dumps([said, modules]))
"""


@pytest.mark.long
def test_every_command_has_its_help(svit_det, installed, tmp_path):
    """In one process, because every command imports torch."""
    done = run([sys.executable, "-c", HELP_OF_ALL], folder=tmp_path, env=svit_det.environment)
    said, modules = json.loads(done.stdout)
    assert set(said) == set(COMMANDS)
    for name, (status, text) in said.items():
        assert status == 0 and text.startswith(f"usage: svit-det {name} "), name
    assert all(Path(module).is_relative_to(installed) for module in modules)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_an_own_set_is_evaluated_and_weights_are_converted(svit_det, disc, tmp_path):
    """One picture with one disc, under names that only the wheel can resolve."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "disc.png").rename(tmp_path / "pictures/disc.png")
    corners = [106, 90, 120, 76, 134, 90, 120, 104]
    content = {
        "images": [{"id": 1, "file_name": "disc.png", "height": 256, "width": 256}],
        "categories": [{"id": 1, "name": "disc"}],
        "annotations": [
            {
                **{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 600.0},
                **{"bbox": [106, 76, 28, 28], "segmentation": [corners]},
            }
        ],
    }
    (tmp_path / "disc.json").write_text(json.dumps(content))
    sets = ["DATASETS.COCO_FORMAT", "[['disc', 'disc.json', 'pictures']]"]
    sets += ["DATASETS.TEST", "('disc',)", "OUTPUT_DIR", "evaluated"]
    given = ("--json", "--config-file", "demo/svit", "--eval-only", *sets)
    result = svit_det("train", *given)
    assert set(result["results"]) == {"bbox", "segm", "token_usage"}
    merged = yaml.safe_load((tmp_path / "evaluated/config.yaml").read_text())
    assert merged["MODEL"]["WEIGHTS"] == "configs/demo/svit.safetensors"

    weights = ("--from", "trunk", "--weights", "configs/demo/dense.safetensors")
    given = (*weights, "--config-file", "demo/adapter_dense", "--output", "trunk.pth")
    assert svit_det("convert", "--json", *given)["output"] == "trunk.pth"


def test_the_citation_has_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
