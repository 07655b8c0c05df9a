"""tools/benchmark.py from the outside."""

import json
import sys

import pytest


@pytest.fixture(scope="module")
def results(tmp_path_factory, outside):
    """As a user runs it, in a process of its own."""
    folder = tmp_path_factory.mktemp("benchmark")
    done = outside(
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
def test_peak_memory_is_that_of_one_forward_pass(benchmark):
    ran = benchmark(
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
    )
    found = ran.results
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
def test_bad_input_ends_in_one_sentence(benchmark, arguments, complaint):
    ran = benchmark(*arguments)
    assert complaint in ran.problem and ran.problem.endswith(".") and "\n" not in ran.problem
    assert not (ran.folder / "results.json").exists()


def test_bad_input_from_outside(tmp_path, outside):
    done = outside("--batch-sizes", "0", output=tmp_path / "out")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip() == "benchmark.py: --batch-sizes 0 must lie in [1, 1e6]."


def test_decisions_of_a_policy_with_a_class_token(benchmark):
    ran = benchmark(
        *("--config-file", "configs/plain_ats_t.yaml", "--threads", "1", "--tokens", "4", "6"),
        *("--images", "1", "--repeats", "2", "--batch-sizes", "1", "2", "--device", "cpu"),
        *("--parts", "blocks", "--decisions", "--no-memory"),
    )
    found = ran.results
    assert found["policy"] == "ATS" and found["layers"] == list(range(3, 12))
    single, double = found["rows"]
    assert set(single["raw_seconds_per_batch"]) == {"dense", "pruned"}
    assert len(double["decision_seconds_per_batch"]["decision_by_block"]) == 12
    kept = single["kept_tokens_per_block"]
    assert kept[:3] == [24] * 3 and kept[11] < kept[3] <= 17
    assert "What deciding costs" in ran.printed


@pytest.mark.parametrize(
    ("name", "policy", "layers", "keeps_all"),
    [
        (["Dense", "MODEL.TOKEN_POLICY.WRAPPERS", "['Monotone']"], "SViT", [*range(3, 12)], True),
        (["AttentionProbe"], "AttentionProbe", [], False),
    ],
    ids=["Dense, wrapped", "AttentionProbe"],
)
def test_any_policy_of_the_registry(benchmark, name, policy, layers, keeps_all):
    """Wrappers are left off; the dense model is compared with SViT; a schedule may be missing."""
    ran = benchmark(
        *("--config-file", "configs/plain_svit_t.yaml", "--threads", "1", "--tokens", "2", "3"),
        *("--images", "1", "--repeats", "1", "--batch-sizes", "1", "--device", "cpu"),
        *("--parts", "blocks", "--decisions", "--no-memory", "MODEL.TOKEN_POLICY.NAME", *name),
    )
    found = ran.results
    assert found["policy"] == policy
    assert found["layers"] == layers and len(found["keep_ratios"]) == len(layers)
    assert ("keep_all" in found["rows"][0]["raw_seconds_per_batch"]) == keeps_all


def test_stages_of_the_adapter(benchmark):
    ran = benchmark(
        *("--config-file", "configs/svit_t.yaml", "--threads", "1", "--tokens", "4", "6"),
        *("--images", "1", "--repeats", "2", "--batch-sizes", "1", "--device", "cpu"),
        *("--parts", "backbone", "--stages", "--no-memory"),
    )
    (row,) = ran.results["rows"]
    stages = {"embed", "blocks", "prior", "injectors", "extractors", "resizes", "pyramid"}
    stages |= {"ffns", "upsampling", "projection"}
    for arm in ("dense", "pruned"):
        found = row["stage_seconds_per_batch"][arm]
        assert set(found) == stages
        assert all(len(each) == 2 and min(each) > 0 for each in found.values())
    assert "extractors" in ran.printed
