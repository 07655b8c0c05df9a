"""SIGKILL anywhere: the resumed training ends bit for bit where the uninterrupted one does."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

PROJECT = Path(__file__).resolve().parents[2]
LAST, FINAL, RESULTS = "last.pth", "model_final.pth", "results.json"

# Imports once; for each line of JSON a fork of it becomes the training, with a fault built in.
SERVER = """
import json, os, signal, sys, traceback
import svit_det.cli.train_classifier as tool

def become(order):
    try:
        exec(order["fault"], {"__name__": "fault"})
        return tool.main(order["arguments"])
    except BaseException:
        return traceback.format_exc()

for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.alarm(300)  # should the tests themselves be killed
        said = os.open(order["said"], os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(said, stream)
        problem = become(order)
        print(problem, flush=True)
        os._exit(problem is not None)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
AT = """
import os, signal
def kill(): os.kill(os.getpid(), signal.SIGKILL)
def at(owner, name, count, act=None):
    old, seen = getattr(owner, name), []
    def new(*args, **kwargs):
        seen.append(1)
        if len(seen) == count:
            (act or (lambda *a, **k: kill()))(*args, **kwargs)
        return old(*args, **kwargs)
    setattr(owner, name, new)
"""
HALF = """
import io
import svit_det.weights.files as files
def half(content, file):
    whole = io.BytesIO(); save(content, whole)
    file.write(whole.getvalue()[: whole.tell() // 2]); file.flush(); kill()
save = files.torch.save
at(files.torch, "save", {}, half)
"""
# A training of three epochs with three steps each; files are renamed in this order: config.yaml,
# then last.pth and results.json of each epoch, then model_final.pth and results.json.
POINTS = {
    "before the first checkpoint": 'import torch\nat(torch.optim.AdamW, "step", 2)',
    "inside the first checkpoint's write": HALF.format(1),
    "inside the second checkpoint's write": HALF.format(2),
    "between a checkpoint and its rename": 'import svit_det.files as f\nat(f.os, "replace", 4)',
    "between two checkpoints": 'import torch\nat(torch.optim.AdamW, "step", 8)',
    "between a checkpoint and its evaluation": """
from svit_det.classification.trainer import Trainer
at(Trainer, "evaluate", 2)
""",
    "before the last evaluation": """
from svit_det.classification.trainer import Trainer
at(Trainer, "evaluate", 3)
""",
    "inside the write of the trained weights": HALF.format(4),
    "before the results are written": 'import svit_det.files as f\nat(f.os, "replace", 9)',
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Runs trainings: `run(arguments, fault)` returns the exit status and what was said."""
    own = {"PYTHONPATH": str(PROJECT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    said = tmp_path_factory.mktemp("said") / "said.txt"
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=os.environ | own,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def run(arguments, fault=""):
            order = {"arguments": arguments, "fault": fault, "said": str(said)}
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline()), said.read_text()

        yield run
        process.stdin.close()


@pytest.fixture
def training(a_yaml, small):
    """Factory: the command line of a training under SViT, whose gates and masks are drawn."""

    def arguments(folder, *flags):
        options = small(
            MODEL__TOKEN_POLICY__NAME="SViT",
            SOLVER__EPOCHS=3,
            SOLVER__EMA_DECAY=0.5,
            SOLVER__BASE_LR=0.05,
            OUTPUT_DIR=folder,
        )
        return ["--config-file", a_yaml, *flags, *options]

    return arguments


@pytest.fixture(scope="module")
def known():
    """The result of the training that nothing stops, and its seconds; made by the first test."""
    return {}


@pytest.fixture
def whole(server, training, known, tmp_path_factory):
    """(folder, seconds) of the training that nothing stops."""
    if not known:
        folder, begin = tmp_path_factory.mktemp("whole"), time.monotonic()
        status, said = server(training(folder))
        assert status == 0, said
        known |= {"folder": folder, "seconds": time.monotonic() - begin}
    return known["folder"], known["seconds"]


def assert_same(first, second, where):
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for number, (one, other) in enumerate(zip(first, second)):
            assert_same(one, other, f"{where}/{number}")
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second), where
    elif isinstance(first, str) and "OUTPUT_DIR:" in first:  # the config
        one, other = (
            [line for line in text.splitlines() if not line.startswith("OUTPUT_DIR:")]
            for text in (first, second)
        )
        assert one == other, where
    else:
        assert first == second, where


def assert_ends_alike(resumed, whole, points_of):
    assert points_of(resumed) == points_of(whole)
    for name in (LAST, FINAL):
        first, second = (torch.load(each / name, weights_only=True) for each in (resumed, whole))
        assert_same(first, second, name)
    first, second = (json.loads((each / RESULTS).read_text()) for each in (resumed, whole))
    for results in (first, second):
        results.pop("images_per_second")
    assert_same(first, second, RESULTS)


@pytest.mark.long
@pytest.mark.parametrize("point", POINTS)
def test_killed_at(server, training, whole, tmp_path, points_of, point):
    folder = tmp_path / "killed"
    status, said = server(training(folder), AT + POINTS[point])
    assert status == -signal.SIGKILL, said
    if (folder / LAST).exists():  # whole, whenever it is there
        torch.load(folder / LAST, weights_only=True)
    status, said = server(training(folder, "--resume"))
    assert status == 0, said
    assert_ends_alike(folder, whole[0], points_of)


@pytest.mark.long
@pytest.mark.parametrize("number", range(3))
def test_killed_at_any_time(server, training, whole, tmp_path, points_of, number, killed_after):
    seconds = random.Random(number).uniform(0, whole[1])
    fault = killed_after(seconds)
    status, said = server(training(tmp_path / "killed"), fault)
    assert status in (-signal.SIGKILL, 0), said
    status, said = server(training(tmp_path / "killed", "--resume"))
    assert status == 0, said
    assert_ends_alike(tmp_path / "killed", whole[0], points_of)


# ------------------------------------------------------------------ another process is killed

IN_A_WORKER = """
from svit_det.classification.images import TrainImages
at(TrainImages, "__getitem__", 20)
"""


@pytest.mark.long
def test_a_data_worker_is_killed(server, training, whole, tmp_path, points_of):
    """In the second epoch: an epoch has three batches of 8, and this process reads two of them."""
    folder, workers = tmp_path / "killed", ["DATA.NUM_WORKERS", "2"]
    status, said = server([*training(folder), *workers], AT + IN_A_WORKER)
    assert status == 1, said
    assert said.splitlines()[-1] == (
        "a process that loads images was killed, perhaps for want of memory; --resume goes on from "
        "the last checkpoint (DATA.NUM_WORKERS says how many there are)."
    )
    assert "Traceback" not in said
    assert torch.load(folder / LAST, weights_only=True)["epoch"] == 1
    status, said = server(training(folder, "--resume"))
    assert status == 0, said
    assert_ends_alike(folder, whole[0], points_of)


def in_two_processes(arguments, said):
    """Start a training by torchrun; what both processes say goes to the file `said`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    own = {"PYTHONPATH": str(PROJECT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    with open(said, "w") as file:
        return subprocess.Popen(
            [*command, str(PROJECT / "tools/train_classifier.py"), *arguments],
            env=os.environ | own,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def trainings_of(process):
    """The numbers of the processes that train."""
    found = []
    for task in os.listdir(f"/proc/{process.pid}/task"):
        found += map(int, Path(f"/proc/{process.pid}/task/{task}/children").read_text().split())
    return [
        each for each in found if b"train_classifier" in Path(f"/proc/{each}/cmdline").read_bytes()
    ]


def gone(pid, seconds):
    """Whether the process has ended within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def kill_one_of_two(arguments, said, last):
    """Kill the first process that trains, once there is a checkpoint `last`.

    The other one must end within ten seconds.
    """
    process = in_two_processes(arguments, said)
    try:
        end = time.monotonic() + 120
        while not last.exists():
            assert process.poll() is None and time.monotonic() < end, said.read_text()
            time.sleep(0.02)
        victim, other = trainings_of(process)
        os.kill(victim, signal.SIGKILL)
        assert gone(other, 10), said.read_text()
        process.wait(60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    sentences = ("has lost another process of the run", "stopped by SIGTERM; --resume goes on")
    assert any(each in said.read_text() for each in sentences), said.read_text()


@pytest.mark.long
def test_two_processes_go_on_after_a_kill(training, tmp_path, points_of):
    """The resumed training ends where the uninterrupted one of two processes does."""
    said, last = tmp_path / "said.txt", tmp_path / "killed" / LAST
    epochs = ["SOLVER.EPOCHS", "12", "SOLVER.EVAL_EPOCHS", "6"]
    kill_one_of_two([*training(last.parent), *epochs], said, last)
    assert torch.load(last, weights_only=True)["epoch"] < 12
    for arguments in (training(last.parent, "--resume"), training(tmp_path / "whole")):
        process = in_two_processes([*arguments, *epochs], said)
        assert process.wait(120) == 0, said.read_text()
    assert_ends_alike(last.parent, tmp_path / "whole", points_of)
