"""SIGKILL anywhere: the resumed run ends bit for bit where the uninterrupted one does."""

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
TIMES = ("time", "data_time", "rank_data_time", "eta_seconds")
STEPS = 6
FINALS = ("model_final.pth", "metrics.json", "results.json", "token_usage.json")

# Imports once; for each line of JSON a fork of it becomes the training, with a fault built in.
SERVER = """
import json, os, runpy, signal, sys, traceback
import svit_det.detection.trainer, svit_det.detection.processes, svit_det.detection.pictures
import tensorboard

def become(order):
    sys.argv = order["command"]
    try:
        exec(order["fault"], {"__name__": "fault"})
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ending:
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)
            return 1
        return ending.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

for line in sys.stdin:
    order = json.loads(line)
    if "ended" in order:  # a child that was not waited for
        status = os.waitstatus_to_exitcode(os.waitpid(order["ended"], 0)[1])
        print(json.dumps(status), flush=True)
        continue
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        signal.alarm(900)  # should the tests themselves be killed
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(order["folder"])
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        status = become(order)
        sys.stdout.flush()
        os._exit(status)
    print(json.dumps(child), flush=True)
    if not order["wait"]:
        continue
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(status), flush=True)
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
POINTS = {
    "inside a checkpoint's write": """
import io
import svit_det.weights.files as files
def half(content, file):
    whole = io.BytesIO(); torch_save(content, whole)
    file.write(whole.getvalue()[: whole.tell() // 2]); file.flush(); kill()
torch_save = files.torch.save
at(files.torch, "save", 2, half)
""",
    "between a checkpoint and its rename": """
import svit_det.files as files
at(files.os, "replace", 4)
""",
    "between a checkpoint and last_checkpoint": """
from svit_det.detection.checkpoint import TokenCheckpointer
at(TokenCheckpointer, "tag_last_checkpoint", 2)
""",
    "inside last_checkpoint's write": """
from pathlib import Path
old = Path.write_text
def write_text(path, text):
    if "last_checkpoint" in path.name and "3" in text:
        old(path, text[:5]); kill()
    return old(path, text)
Path.write_text = write_text
""",
    "before the optimiser's step": """
import torch
at(torch.optim.AdamW, "step", 4)
""",
    "between optimiser and scheduler": """
from detectron2.engine import hooks
at(hooks.LRScheduler, "after_step", 4)
""",
    "during an evaluation": """
from svit_det.detection.run_files import WholeCOCOEvaluator
at(WholeCOCOEvaluator, "process", 6)
""",
    "while an evaluation writes": """
from svit_det.detection.run_files import WholeCOCOEvaluator
at(WholeCOCOEvaluator, "_eval_predictions", 2)
""",
    "inside a line of metrics": """
import svit_det.detection.run_files as files
def half(path, content):
    with open(path, "ab") as file:
        file.write(content[: len(content) // 2])
    kill()
at(files, "_append", 1, half)
""",
    "during the last evaluation": """
from svit_det.detection.run_files import WholeCOCOEvaluator
at(WholeCOCOEvaluator, "process", 11)
""",
    "before the results are written": """
import svit_det.results as results, svit_det.files as files
from svit_det.detection.token_usage import TokenUsageEvaluator
at(TokenUsageEvaluator, "evaluate", 3)
""",
}
IN_A_WORKER = """
from svit_det.detection.image_order import PlacedImages
old = PlacedImages.__getitem__
def getitem(self, place):
    if place[0] == 14: kill()
    return old(self, place)
PlacedImages.__getitem__ = getitem
"""


@pytest.fixture(scope="module")
def server():
    """Starts trainings: `start(folder, arguments, fault, wait)`; `start.status(child)`."""
    paths = [str(PROJECT), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=os.environ | own | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def say(order):
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        def start(folder, arguments, fault="", *, wait=True):
            folder.mkdir(exist_ok=True)
            command = [str(PROJECT / "tools/train_net.py"), *map(str, arguments)]
            order = {"folder": str(folder), "command": command, "fault": fault, "wait": wait}
            child = say(order)
            return json.loads(process.stdout.readline()) if wait else child

        start.status = lambda child: say({"ended": child})
        yield start
        process.stdin.close()


def options(tiny_yaml, workers=0):
    return [
        *("--config-file", tiny_yaml, "OUTPUT_DIR", "out", "SOLVER.MAX_ITER", STEPS),
        *("SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 2, "MODEL.VIT.DROP_PATH_RATE", 0.1),
        *("SOLVER.WARMUP_ITERS", 4, "SOLVER.STEPS", "(5,)", "DATALOADER.NUM_WORKERS", workers),
    ]


@pytest.fixture(scope="module")
def whole(server, tiny_yaml, tmp_path_factory):
    """The folder and the seconds of a run that nothing stops."""
    folder = tmp_path_factory.mktemp("whole")
    begin = time.monotonic()
    assert server(folder, options(tiny_yaml)) == 0, (folder / "stderr").read_text()
    return folder, time.monotonic() - begin


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(each) for key, each in value.items() if key not in TIMES}
    return [without_times(each) for each in value] if isinstance(value, (list, tuple)) else value


def assert_same(first, second, where=""):
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, list):
        assert len(first) == len(second), where
        for number, (one, other) in enumerate(zip(first, second)):
            assert_same(one, other, f"{where}/{number}")
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second), where
    else:
        assert repr(first) == repr(second), where  # nan is like nan here


def content_of(folder, name):
    path = folder / "out" / name
    if path.suffix == ".pth":
        return torch.load(path, weights_only=True)
    return (
        [json.loads(line) for line in path.read_text().splitlines()]
        if "metrics" in name
        else (json.loads(path.read_text()))
    )


def assert_ends_alike(resumed, whole, names=FINALS):
    for name in names:
        first, second = (without_times(content_of(each, name)) for each in (resumed, whole))
        assert_same(first, second, name)
    checkpoints = [
        sorted(p.name for p in (each / "out").glob("*.pth")) for each in (resumed, whole)
    ]
    assert checkpoints[0] == checkpoints[1]


@pytest.mark.long
@pytest.mark.parametrize("point", POINTS)
def test_killed_at(server, tiny_yaml, whole, tmp_path, point):
    killed = server(tmp_path, options(tiny_yaml), AT + POINTS[point])
    assert killed == -signal.SIGKILL, (tmp_path / "stderr").read_text()
    assert server(tmp_path, ["--resume", *options(tiny_yaml)]) == 0, (
        tmp_path / "stderr"
    ).read_text()
    assert_ends_alike(tmp_path, whole[0])


@pytest.mark.long
@pytest.mark.parametrize("number", range(10))
def test_killed_at_any_time(server, tiny_yaml, whole, tmp_path, number, killed_after):
    seconds = random.Random(number).uniform(0.0, whole[1])
    fault = killed_after(seconds)
    assert server(tmp_path, options(tiny_yaml), fault) in (-signal.SIGKILL, 0)
    assert server(tmp_path, ["--resume", *options(tiny_yaml)]) == 0, (
        tmp_path / "stderr"
    ).read_text()
    assert_ends_alike(tmp_path, whole[0])


@pytest.mark.long
def test_a_data_worker_is_killed(server, tiny_yaml, whole, tmp_path):
    """The number of loader processes changes nothing of what is trained."""
    arguments = options(tiny_yaml, workers=2)
    assert server(tmp_path, arguments, AT + IN_A_WORKER) == 1
    said = (tmp_path / "stderr").read_text()
    assert said.startswith("train_net.py: a process that loads images was killed"), said
    assert said.count("\n") == 1
    assert server(tmp_path, ["--resume", *arguments]) == 0, (tmp_path / "stderr").read_text()
    assert_ends_alike(tmp_path, whole[0], ("metrics.json", "results.json", "token_usage.json"))
    trained = [content_of(folder, "model_final.pth") for folder in (tmp_path, whole[0])]
    assert_same(trained[0]["model"], trained[1]["model"])


def wait_for(path, child, seconds=240):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end and Path(f"/proc/{child}").exists(), f"{path} never came"
        time.sleep(0.02)


def children_of(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def ended(pid, seconds):
    """Whether the process ends within so many seconds; the server has not reaped it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def childless(pid, seconds):
    """Whether no child is left within so many seconds.

    A process shows as ended while its other threads still end, and they hold its children until
    then; among them is Python's tracker of shared memory, which ends behind its parent.
    """
    end = time.monotonic() + seconds
    while children_of(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not children_of(pid)


@pytest.mark.long
def test_one_of_two_processes_is_killed(server, tiny_yaml, tmp_path):
    """The other one ends within ten seconds, in a sentence; the resumed run is the whole one."""
    arguments = ["--num-gpus", 2, "--dist-url", "auto", *options(tiny_yaml)]
    assert server(tmp_path / "whole", arguments) == 0
    parent = server(tmp_path / "killed", arguments, wait=False)
    wait_for(tmp_path / "killed/out/model_0000001.pth", parent)
    trainers = [
        pid
        for pid in children_of(parent)
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(trainers) == 2
    os.kill(trainers[1], signal.SIGKILL)
    assert ended(parent, 10)
    said = (tmp_path / "killed/stderr").read_text()
    assert "train_net.py: process 1 ended by itself (SIGKILL), so the others were stopped" in said
    assert said.count("\n") == 1, said
    assert server(tmp_path / "killed", ["--resume", *arguments]) == 0
    assert_ends_alike(tmp_path / "killed", tmp_path / "whole")


# ------------------------------------------------------------------ Ctrl-C


@pytest.mark.long
@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 2), (2, 0)])
@pytest.mark.parametrize("everyone", [True, False], ids=["terminal", "kill -INT"])
def test_ctrl_c_ends_with_one_line(server, tiny_yaml, tmp_path, processes, workers, everyone):
    arguments = ["--num-gpus", processes, "--dist-url", "auto", *options(tiny_yaml, workers)]
    child = server(tmp_path, [*arguments, "SOLVER.MAX_ITER", 500], wait=False)
    wait_for(tmp_path / "out/model_0000001.pth", child)
    (os.killpg if everyone else os.kill)(child, signal.SIGINT)
    assert ended(child, 60)
    said = (tmp_path / "stderr").read_text()
    assert said.startswith("train_net.py: stopped by Ctrl-C; --resume goes on"), said
    assert said.count("\n") == 1, said
    assert childless(child, 10)
    assert server.status(child) == 130
    names = sorted(os.listdir(tmp_path / "out"))
    assert not [name for name in names if "partial" in name or name.startswith(".")]
