"""tools/benchmark.py from the outside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def benchmark(*arguments, output):
    command = [sys.executable, "tools/benchmark.py", *arguments, "--output", str(output)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    done = benchmark(
        *("--config-file", "configs/plain_svit_t.yaml", "--threads", "1", "--tokens", "4", "6"),
        *("--images", "2", "--repeats", "2", "--batch-sizes", "1", "2", "--device", "cpu"),
        "--no-memory",
        output=folder,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "results.json").read_text()), done.stdout


def test_every_row_is_there_with_its_raw_times(results):
    found, _ = results
    rows = {(row["part"], row["batch_size"]): row for row in found["rows"]}
    assert list(rows) == [("blocks", 1), ("blocks", 2), ("backbone", 1), ("backbone", 2)]
    for row in rows.values():
        for seconds in row["raw_seconds_per_batch"].values():
            assert len(seconds) == 4 and min(seconds) > 0
        assert row["bound"] > 1 and row["eta"]["median"] > 0
        assert row["peak_memory_bytes"] == {"dense": None, "pruned": None}
        assert row["host_syncs_per_forward"] == {"dense": None, "pruned": None}
    assert set(rows["blocks", 1]["raw_seconds_per_batch"]) == {"keep_all", "dense", "pruned"}
    assert "one_by_one" in rows["backbone", 2]["raw_seconds_per_batch"]
    assert "different" in rows["blocks", 2]["raw_seconds_per_batch"]


def test_the_schedule_is_the_configs(results):
    found, _ = results
    kept = found["rows"][0]["kept_tokens_per_block"]
    assert kept == [24] * 3 + [17] * 3 + [12] * 3 + [8] * 3
    counts = found["rows"][1]["different_counts_kept"]
    assert [sum(block) for block in zip(*counts)] == [2 * count for count in kept]


def test_the_run_says_what_it_ran_on(results):
    found, printed = results
    assert found["command"].startswith("python tools/benchmark.py --config-file configs/plain")
    assert found["machine"]["threads"] == 1 and found["machine"]["versions"]["torch"]
    assert found["token_grid"] == [4, 6] and found["dtype"] == "float32"
    for word in ("speed-up", "eta", "keep 1.0", "Different counts per image", "results.json"):
        assert word in printed


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of one call")
def test_peak_memory_is_that_of_one_forward_pass(tmp_path):
    done = benchmark(
        *(
            "--config-file",
            "configs/plain_svit_t.yaml",
            "--tokens",
            "24",
            "24",
            "--parts",
            "blocks",
        ),
        *("--images", "1", "--repeats", "1", "--batch-sizes", "1", "--device", "cpu"),
        *("--threads", "1", "MODEL.VIT.DEPTH", "4", "MODEL.TOKEN_POLICY.LAYERS", "[1,2,3]"),
        *("MODEL.TOKEN_POLICY.KEEP_RATIOS", "[0.7,0.5,0.3]"),
        output=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    peaks = found["rows"][0]["peak_memory_bytes"]
    # Two copies of the MLP's hidden layer at least, and not the 300 MB that importing torch takes.
    assert all(2 * 576 * 768 * 4 < peak < 40 * 2**20 for peak in peaks.values())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--config-file", "nowhere.yaml"], "nowhere.yaml"),
        (["--tokens", "5", "7"], "--tokens 5 7"),
        (["--stages", "--parts", "blocks"], "--stages"),
        (["--decisions", "--parts", "backbone"], "--decisions"),
        (["--batch-sizes", "0"], "--batch-sizes 0"),
        (["--keep-ratios", "0.5"], "KEEP_RATIOS"),
    ],
)
def test_bad_input_ends_in_one_sentence(tmp_path, arguments, complaint):
    done = benchmark(*arguments, output=tmp_path / "out")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("benchmark.py: ") and complaint in last


def test_decisions_of_a_policy_with_a_class_token(tmp_path):
    done = benchmark(
        *("--config-file", "configs/plain_ats_t.yaml", "--threads", "1", "--tokens", "4", "6"),
        *("--images", "1", "--repeats", "2", "--batch-sizes", "1", "2", "--device", "cpu"),
        *("--parts", "blocks", "--decisions", "--no-memory"),
        output=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["policy"] == "ATS" and found["layers"] == list(range(3, 12))
    single, double = found["rows"]
    assert set(single["raw_seconds_per_batch"]) == {"dense", "pruned"}
    assert len(double["decision_seconds_per_batch"]["decision_by_block"]) == 12
    kept = single["kept_tokens_per_block"]
    assert kept[:3] == [24] * 3 and kept[11] < kept[3] <= 17
    assert "What deciding costs" in done.stdout


@pytest.mark.parametrize(
    ("name", "policy", "layers", "keeps_all"),
    [
        (["Dense", "MODEL.TOKEN_POLICY.WRAPPERS", "['Monotone']"], "SViT", [*range(3, 12)], True),
        (["AttentionProbe"], "AttentionProbe", [], False),
    ],
    ids=["Dense, wrapped", "AttentionProbe"],
)
def test_any_policy_of_the_registry(tmp_path, name, policy, layers, keeps_all):
    """Wrappers are left off; the dense model is compared with SViT; a schedule may be missing."""
    done = benchmark(
        *("--config-file", "configs/plain_svit_t.yaml", "--threads", "1", "--tokens", "2", "3"),
        *("--images", "1", "--repeats", "1", "--batch-sizes", "1", "--device", "cpu"),
        *("--parts", "blocks", "--decisions", "--no-memory", "MODEL.TOKEN_POLICY.NAME", *name),
        output=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["policy"] == policy
    assert found["layers"] == layers and len(found["keep_ratios"]) == len(layers)
    assert ("keep_all" in found["rows"][0]["raw_seconds_per_batch"]) == keeps_all


def test_stages_of_the_adapter(tmp_path):
    done = benchmark(
        *("--config-file", "configs/svit_t.yaml", "--threads", "1", "--tokens", "4", "6"),
        *("--images", "1", "--repeats", "2", "--batch-sizes", "1", "--device", "cpu"),
        *("--parts", "backbone", "--stages", "--no-memory"),
        output=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    stages = {"embed", "blocks", "prior", "injectors", "extractors", "resizes", "pyramid"}
    for arm in ("dense", "pruned"):
        found = row["stage_seconds_per_batch"][arm]
        assert set(found) == stages
        assert all(len(each) == 2 and min(each) > 0 for each in found.values())
    assert "extractors" in done.stdout
