"""tools/compare_policies.py on the tiny model: what it trains, keeps, measures and draws."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import cv2
import pytest
import torch

from svit_det.comparison import training
from svit_det.comparison.cost import Reading
from svit_det.comparison.measures import read_run
from svit_det.errors import InputError
from svit_det.files import log_of_one


@pytest.fixture(scope="module")
def parent(tiny_yaml, tmp_path_factory):
    """Weights of a tiny dense detector."""
    from detectron2.modeling import build_model

    from svit_det.detection import load_config

    cfg = load_config(str(tiny_yaml.with_name("dense.yaml")))
    path = tmp_path_factory.mktemp("parent") / "dense.pth"
    torch.save({"model": build_model(cfg).state_dict()}, path)
    return path


def test_it_trains_alike_keeps_what_is_done_and_reports(fork_tool, tiny_yaml, parent, tmp_path):
    output = tmp_path / "out"
    config = tiny_yaml.with_name("dense.yaml")
    arguments = ["--config-file", config, "--weights", parent, "--output", output]
    arguments += ["--policies", "Dense", "EvoViT", "--seeds", "5", "--steps", "1", "--jobs", "2"]
    arguments += ["--baseline", "Dense"]
    # Dense has no schedule: the tool leaves these out of its training.
    arguments += ["MODEL.TOKEN_POLICY.LAYERS", "[1, 2]"]
    arguments += ["MODEL.TOKEN_POLICY.KEEP_RATIOS", "[0.7, 0.5]"]
    done = fork_tool("compare_policies.py", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((output / "results.json").read_text())
    assert found["dataset"] == "discs_val" and found["steps"] == 1
    dense, evo = (found["policies"][name] for name in ("Dense", "EvoViT"))
    assert dense["runs"]["5"]["kept"] == 100 and dense["runs"]["5"]["returning"] is None
    # Three blocks, of which the last two process .7 and .5 of 64 tokens.
    assert evo["runs"]["5"]["kept"] == pytest.approx(100 * (1 + 44 / 64 + 0.5) / 3, abs=3)
    assert evo["runs"]["5"]["overlap"] < 100
    assert evo["gmacs"]["trunk"] < dense["gmacs"]["trunk"] < dense["gmacs"]["detector"]
    assert dense["speed_up_over_baseline"]["median"] == 1.0
    for name in ("Dense", "EvoViT"):
        assert name in done.stdout
        assert len(list((output / "pictures").glob(f"*_{name}_keep_maps.png"))) == 3
    for chart in ("kept_tokens", "box_ap_over_cost", "mask_ap_over_cost"):
        assert cv2.imread(str(output / f"{chart}.png")).std() > 5

    logs = {path: path.stat().st_mtime_ns for path in output.glob("*/model_final.pth")}
    assert len(logs) == 2
    again = fork_tool("compare_policies.py", *arguments)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in logs} == logs

    # At another cost the same training is evaluated at another budget.
    cost = (dense["runs"]["5"]["trunk_gmacs"] + evo["runs"]["5"]["trunk_gmacs"]) / 2
    moved = fork_tool("compare_policies.py", *arguments, "--cost", cost)
    assert moved.returncode == 0, moved.stderr
    assert {path: path.stat().st_mtime_ns for path in logs} == logs
    found = json.loads((output / "results.json").read_text())
    run = found["policies"]["EvoViT"]["runs"]["5"]
    assert found["cost_gmacs"] == cost and run["trunk_gmacs"] == pytest.approx(cost, rel=0.03)
    assert run["test_keep_ratio"] > 0.6
    assert found["policies"]["Dense"]["runs"]["5"]["test_keep_ratio"] is None

    other = fork_tool("compare_policies.py", *arguments, "SOLVER.BASE_LR", "0.5")
    assert other.returncode == 1
    assert "holds a training with other settings" in other.stderr.splitlines()[-1]


def test_refused(refused, fork_tool, tiny_yaml, parent, tmp_path):
    start = ["--config-file", tiny_yaml.with_name("dense.yaml"), "--output", tmp_path / "out"]
    said = refused("compare_policies.py", *start, "--weights", parent, "--policies", "EVit")
    assert "'EVit' is not registered" in said and "EViT" in said
    said = refused("compare_policies.py", *start, "--weights", parent, "--policies", "no.yaml")
    assert "--policies no.yaml: no such file" in said
    twice = ["--policies", "EViT", "EViT"]
    said = refused("compare_policies.py", *start, "--weights", parent, *twice)
    assert "--policies EViT EViT: names one twice" in said
    said = refused("compare_policies.py", *start, "--weights", "nowhere.pth")
    assert "nowhere.pth: no such file" in said
    said = refused("compare_policies.py", *start, "--weights", parent, "--cost", "0")
    assert "--cost" in said
    said = refused("compare_policies.py", *start, "--weights", parent, "--steps", "0")
    assert "--steps" in said
    said = refused("compare_policies.py", *start, "--weights", parent, "--seeds", "1", "1")
    assert "--seeds 1 1: names one twice" in said
    said = refused("compare_policies.py", *start, "--weights", parent, "DATASETS.TEST", "()")
    assert "DATASETS.TEST is empty; name the set that the arms are compared on." in said
    (tmp_path / "loop").symlink_to("loop")
    loop = [*start[:2], "--weights", parent, "--output", tmp_path / "loop"]
    assert f"--output {tmp_path}/loop: " in refused("compare_policies.py", *loop)
    broken = ["--weights", parent, "--policies", "Dense", "--seeds", "1", "--steps", "1"]
    done = fork_tool("compare_policies.py", *start, *broken, "MODEL.VIT.DEPTH", "4")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]  # after the progress bar
    assert "Training Dense with seed 1 failed" in last and "output.txt" in last


def test_an_arm_by_its_file(tmp_path):
    from svit_det.comparison.arms import Recipe, arms_of, options_of

    (tmp_path / "often.yaml").write_text("MODEL: {TOKEN_POLICY: {NAME: EvoViT}}")
    recipe = Recipe(tmp_path / "base.yaml", tmp_path / "w.pth", 100, ("SEED", "9"), tmp_path)
    own, named = arms_of([str(tmp_path / "often.yaml"), "ATS"], recipe)
    assert (own.name, own.policy, own.config_file.name) == ("often", "EvoViT", "often.yaml")
    assert (named.name, named.policy, named.config_file.name) == ("ATS", "ATS", "base.yaml")
    options = options_of(recipe, named, 3, [own, named])
    pairs = dict(zip(options[::2], options[1::2], strict=True))
    assert pairs["MODEL.TOKEN_POLICY.NAME"] == "ATS" and pairs["SOLVER.STEPS"] == "(75, 90)"
    assert pairs["OUTPUT_DIR"] == str(tmp_path / "ATS_seed3")
    assert options.index("9") > options.index("3")  # the command line has the last word
    assert "MODEL.TOKEN_POLICY.NAME" not in options_of(recipe, own, 3, [own, named])


def test_the_control_is_read_off_at_equal_cost():
    """Random at 2, 4 and 8 GMACs finds 10, 20 and 40 box AP, and half as much mask AP."""
    from svit_det.comparison.measures import against_control

    def arm(*runs):
        keys = ("trunk_gmacs", "box_ap", "mask_ap")
        return {"runs": {str(n): dict(zip(keys, run, strict=True)) for n, run in enumerate(runs)}}

    results = {
        "random_75": arm((8.0, 40.0, 20.0)),
        "random_25": arm((2.0, 10.0, 5.0)),
        "random_50": arm((3.5, 19.0, 9.0), (4.5, 21.0, 11.0)),
        "svit": arm((5.0, 31.0, 12.5), (7.0, 35.0, 15.5)),
        "cheap": arm((1.95, 12.0, 5.0)),
        "too_cheap": arm((1.9, 12.0, 5.0)),
        "dense": arm((9.0, 50.0, 30.0)),
    }
    against_control(results, "random")
    # At 6 GMACs the line from (4, 20) to (8, 40) stands at 30 and 15.
    assert results["svit"]["over_random"] == pytest.approx({"box_ap": 3.0, "mask_ap": -1.0})
    assert results["cheap"]["over_random"] == pytest.approx({"box_ap": 2.0, "mask_ap": 0.0})
    assert "over_random" not in results["random_50"]
    assert "over_random" not in results["too_cheap"] and "over_random" not in results["dense"]
    against_control(results, "monotone_random")
    assert "over_monotone_random" not in results["svit"]


def test_the_budget_that_spends_a_cost(tiny_yaml):
    from detectron2.modeling import build_model

    from svit_det.comparison.cost import budget_at_share, trunk_share
    from svit_det.detection import load_config
    from svit_det.vit import find_token_net

    images = [torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))]
    options = ["MODEL.TOKEN_POLICY.LAYERS", "[1, 2]"]
    options += ["MODEL.TOKEN_POLICY.KEEP_RATIOS", "[0.7, 0.5]"]
    named = {
        name: load_config(
            str(tiny_yaml.with_name("dense.yaml")),
            ["MODEL.TOKEN_POLICY.NAME", name, *(options if name != "Dense" else [])],
        )
        for name in ("Dense", "EViT")
    }
    dense, evit = (build_model(named[name]).eval() for name in ("Dense", "EViT"))
    own = trunk_share(find_token_net(evit), images)
    assert own < 0.9 and trunk_share(find_token_net(dense), images) == 1
    assert budget_at_share(evit, images, own) is None  # it spends that already
    assert budget_at_share(dense, images, own) is None  # it has nothing to set
    policy = find_token_net(evit).trunk.policy
    ratio = budget_at_share(evit, images, (own + 1) / 2)
    assert policy.keep_ratio is None
    policy.set_keep_ratio(ratio)
    assert trunk_share(find_token_net(evit), images) == pytest.approx((own + 1) / 2, rel=0.02)


ASLEEP = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(60)"


def test_an_interrupt_of_the_command_alone_ends_its_trainings(tmp_path, monkeypatch):
    """A terminal's Ctrl-C reaches them, but `kill` and a scheduler's SIGTERM do not."""
    monkeypatch.setattr(training, "PATIENCE", 0.2)
    monkeypatch.setattr(training, "options_of", lambda *_: [])
    monkeypatch.setattr(training, "run_folder", lambda _, arm, seed: tmp_path / arm.name)
    monkeypatch.setattr(training, "load_config", lambda *_: SimpleNamespace(dump=str))
    arms = [SimpleNamespace(name=name, config_file="none") for name in "ab"]

    def said(arm):
        path = tmp_path / arm.name / "output.txt"
        return path.read_text() if path.exists() else ""

    def interrupt():
        while not said(arms[0]):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        training.train_all(arms, [1], None, jobs=1, program=[sys.executable, "-c", ASLEEP])
    with pytest.raises(ProcessLookupError):
        os.kill(int(said(arms[0]).split()[0]), 0)
    assert said(arms[1]) == "" and not list(tmp_path.glob("*/*.json"))


@pytest.mark.parametrize("name", ["results.json", "token_usage.json"])
@pytest.mark.parametrize("ratio", [None, 0.5])
def test_an_ended_training_without_its_numbers(tmp_path, name, ratio):
    """What was read off at a cost lies in a folder of the training's own."""
    folder = tmp_path if ratio is None else tmp_path / "kept_0.5"
    folder.mkdir(exist_ok=True)
    for each in ("results.json", "token_usage.json"):
        (folder / each).write_text("{}")
    (folder / name).unlink()
    said = rf"^{folder / name}: cannot be read \(No such .*; remove {tmp_path}, and the next"
    with pytest.raises(InputError, match=said):
        read_run(Reading(folder, ratio), "set")


def test_a_training_that_outlived_its_comparison_keeps_its_folder(tmp_path):
    """A SIGKILL ends the comparison alone; its training goes on and writes the same files."""
    log = tmp_path / "output.txt"
    with log_of_one(log) as file:
        orphan = subprocess.Popen([sys.executable, "-c", ASLEEP], stdout=file)
    while not log.read_text():
        time.sleep(0.02)
    said = log.read_text()
    processes = training._Processes([sys.executable, "-c"], threads=1)
    try:
        with pytest.raises(InputError, match=rf"^{log}: a training of another comparison still"):
            processes.run(["print('anew')"], log)
        assert log.read_text() == said
    finally:
        orphan.kill()
        orphan.wait()
    assert processes.run(["print('anew')"], log) == 0
    assert log.read_text() == "anew\n"
