"""Configs and weights by name, and what is said of names that nothing has."""

from pathlib import Path

import pytest

from svit_det.errors import InputError
from svit_det.shipped import (
    config_names,
    existing_weights,
    find_config,
    find_weights,
    get_config_file,
    get_weights_file,
)


@pytest.mark.parametrize("name", ["svit_t", "svit_t.yaml", "configs/svit_t.yaml"])
def test_a_config_by_any_of_its_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path(get_config_file(name))
    assert path.is_file() and path.name == "svit_t.yaml"
    assert find_config(name) == str(path)


def test_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = get_weights_file("demo/svit")
    assert Path(path).is_file() and find_weights("configs/demo/svit.safetensors") == path
    with pytest.raises(InputError, match=r"No weights 'demo/svut' ships.*'demo/svit'"):
        get_weights_file("demo/svut")


def test_names_are_those_of_models():
    assert {"svit_t", "demo/svit", "compare/ats"} <= set(config_names())
    assert not [name for name in config_names() if name.startswith("base/")]


def test_the_nearest_is_named():
    with pytest.raises(InputError, match="No config 'svit_x' ships with svit_det; the nearest is"):
        get_config_file("svit_x")
    with pytest.raises(InputError, match=r"'svit_s'|'svit_t'"):
        find_config("svit_x")


def test_a_file_goes_before_what_ships(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "svit_t.yaml").write_text("SEED: 1")
    assert find_config("svit_t.yaml") == "svit_t.yaml"
    # What is plainly meant as a file is left for its reader to complain of.
    elsewhere = str(tmp_path / "none.yaml")
    assert find_config(elsewhere) == elsewhere and find_config("none.py") == "none.py"
    assert find_weights("none.pth") == "none.pth" and find_weights("") == ""


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("configs/custom/svit.yaml", "custom/plain_svit"),
        ("custom/plan_dense.yaml", "custom/plain_dense"),
        ("svit_tt.yaml", "svit_t"),
        ("../svit_det/configs/svit_tt.yaml", "svit_t"),
        ("/home/me/svit_det/configs/demo/svt.yaml", "demo/svit"),
    ],
)
def test_the_path_of_a_missing_yaml_names_the_nearest_that_ships(path, nearest):
    with pytest.raises(InputError) as refusal:
        find_config(path)
    said = f"{path}: no such file; the nearest config that ships is '{nearest}'."
    assert str(refusal.value) == said


def test_a_folder_named_like_a_yaml_is_left_to_its_reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "svit_tt.yaml").mkdir()
    assert find_config("svit_tt.yaml") == "svit_tt.yaml"


LONG = ["x" * 300, "x" * 300 + ".pth", "x" * 300 + ".yaml", "x/" * 3000 + "a.yaml"]


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("find", [existing_weights, find_weights, find_config])
def test_a_name_that_no_file_can_have(name, find):
    """It is refused like any missing file, or left to its reader."""
    try:
        assert find(name) == name
    except InputError as refusal:
        assert "\n" not in str(refusal)


def test_what_is_no_file_is_called_so(tmp_path):
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match="a folder, a pipe or a device, not a file"):
            existing_weights(str(path))
    with pytest.raises(InputError, match="no such file"):
        existing_weights(str(tmp_path / "none.pth"))
