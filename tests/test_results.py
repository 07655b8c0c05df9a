"""Results are JSON that any program reads, whole or not there."""

import json

import pytest

from svit_det.results import spread, write_json


def test_nan_becomes_null_at_any_depth(tmp_path):
    path = tmp_path / "new" / "results.json"
    write_json(path, {"AP": float("nan"), "rows": [(1, float("inf")), {"x": 0.5}], 3: "three"})
    assert json.loads(path.read_text()) == {
        "AP": None,
        "rows": [[1, None], {"x": 0.5}],
        "3": "three",
    }


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"AP": 1.0})
    with pytest.raises(TypeError):
        write_json(path, {"AP": object()})
    assert json.loads(path.read_text()) == {"AP": 1.0}
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_the_spread_over_seeds_in_words():
    def of(*values):
        return {"runs": {str(seed): {"ap": value} for seed, value in enumerate(values)}}

    assert spread(of(90.0, 92.0, 91.24), "ap") == "91.1 (90.0-92.0)"
    assert spread(of(0.07162), "ap", 4) == "0.0716"
    assert spread(of(90.0, None), "ap") == "-"
