"""Fixtures that files of several folders share; conftest.py registers this module."""

import importlib.util
import math
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import reduce
from pathlib import Path

import pytest

from svit_det.config.reading import merge_values
from svit_det.errors import InputError

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def run_onnx():
    """The example examples/run_onnx.py, as a module."""
    return _module("examples/run_onnx.py")


@pytest.fixture(scope="module")
def by_hand_program():
    """The program benchmarks/by_hand.py, as a module."""
    return _module("benchmarks/by_hand.py")


@pytest.fixture(scope="module")
def before_after():
    """The program benchmarks/before_after.py, as a module."""
    return _module("benchmarks/before_after.py")


@pytest.fixture(scope="module")
def outside_pages():
    """The hook docs/outside_pages.py, as a module."""
    return _module("docs/outside_pages.py")


def _module(path):
    """A file of the project that is in no package, as a module of its own."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, PROJECT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def killed_after():
    """Factory: code that kills the process that runs it after so many seconds."""
    return """
import os, signal, time
victim = os.getpid()
if os.fork() == 0:
    time.sleep({})
    os.kill(victim, signal.SIGKILL)
    os._exit(0)
""".format


# Holds a folder as a training does, with a process beside it as its loader of images.
TRAINING = """
import os, sys, time
from svit_det.training.run_folder import only_training_in
with only_training_in(sys.argv[1]):
    loader = os.fork()
    if loader:
        print(loader, flush=True)
    time.sleep(300)
"""


@pytest.fixture
def training_in():
    """Factory: inside the with-block a training of another process goes on in the folder.

    It is then killed, and its loader of images is left until the test has ended.
    """
    loaders = []

    @contextmanager
    def begin(folder):
        command = [sys.executable, "-c", TRAINING, str(folder)]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            try:
                loaders.append(int(process.stdout.readline()))
                yield
            finally:
                process.kill()

    yield begin
    for loader in loaders:
        os.kill(loader, signal.SIGKILL)


# ------------------------------------------------------------------ Ctrl-C


def group_is_gone(group, seconds):
    """Whether no process of the group is left within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def lines_apart_from_progress(said):
    """What was said in lines of text, without the states of progress bars."""
    lines = re.split(r"[\r\n]+", said)
    return [line for line in lines if line.strip() and not re.search(r"\[\d+:\d\d[<,]", line)]


@pytest.fixture
def interrupted(tmp_path):
    """Factory: runs tools/NAME, and presses Ctrl-C once `begun(what it has said on stderr)`.

    Returns what it said, without progress bars. The command must end with the exit status of an
    interrupt, and none of its processes may be left. `everyone`: the signal goes to all processes,
    as from a terminal; otherwise to the first one, as from `kill -INT`.
    """

    def run(name, *arguments, begun, everyone=True):
        said = tmp_path / "said.txt"
        environment = {"PYTHONPATH": str(PROJECT), "CUDA_VISIBLE_DEVICES": ""}
        with open(said, "w") as stderr:
            process = subprocess.Popen(
                [sys.executable, str(PROJECT / "tools" / name), *map(str, arguments)],
                cwd=tmp_path,
                env=os.environ | environment,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
                # A shell that starts the tests in the background has them ignore Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        try:
            end = time.monotonic() + 900
            while not begun(said.read_text()):
                assert process.poll() is None and time.monotonic() < end, said.read_text()
                time.sleep(0.02)
            (os.killpg if everyone else os.kill)(process.pid, signal.SIGINT)
            status = process.wait(120)
            assert status == 130, said.read_text()
            assert group_is_gone(process.pid, 30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return lines_apart_from_progress(said.read_text())

    return run


# ------------------------------------------------------------------ hostile values of config keys


@pytest.fixture(scope="session")
def hostile():
    """How a key of a config is tried with values that cannot be meant."""
    return Hostile


class Hostile:
    """Tries the keys of `stock`, a config that `check` lets pass."""

    THREE = (math.nan, -7, [[10**12]])
    TWENTY = (
        *(math.inf, -math.inf, 10**12, 1e300, -1e300, 10**400, 1 << 20_000, 2.5, True, None),
        *("", "a word", "nan", [], [math.nan], [-7], [None], [["x"]], {"A": 1}, [{}]),
    )

    def __init__(self, stock, check, *, may_be_negative=(), may_be_infinite=()):
        self.stock, self.check = stock, check
        self.may_be_negative, self.may_be_infinite = may_be_negative, may_be_infinite

    @classmethod
    def flat(cls, value):
        """The entries of nested lists, or the value itself."""
        if isinstance(value, (list, tuple)):
            for entry in value:
                yield from cls.flat(entry)
        else:
            yield value

    def place(self, key):
        """The node that holds a key, and the last part of the key."""
        *nodes, last = key.split(".")
        return reduce(getattr, nodes, self.stock), last

    def try_value(self, key, value):
        """Merge and check; the config is as before afterwards."""
        node, last = self.place(key)
        before = node[last]
        nested = reduce(lambda inner, name: {name: inner}, reversed(key.split(".")), value)
        try:
            merge_values(self.stock, nested, source="wrong.yaml")
            self.check(self.stock)
            return node[last]
        finally:
            node[last] = before

    def is_sane(self, key, value):
        """Whether the number, or the list of numbers, is of an order that a run can mean."""
        numbers = [x for x in self.flat(value) if isinstance(x, (int, float))]
        if key in self.may_be_infinite:
            return all(number > 0 for number in numbers)
        lowest = -1e9 if key in self.may_be_negative else 0
        return all(lowest <= number <= 2e9 for number in numbers)

    def check_key(self, key, values):
        """Each value is refused in a line that names the key, or its kind and size can be meant."""
        node, last = self.place(key)
        default = node[last]
        for value in values:
            try:
                taken = self.try_value(key, value)
            except InputError as refusal:
                said = str(refusal)
                assert key in said and "\n" not in said and len(said) < 600, (value, said)
                continue
            assert self.is_sane(key, taken), value
            assert taken is not None or default is None, value
            kinds = {type(entry) for entry in self.flat(default) if entry is not None}
            if kinds and kinds != {int, float}:
                allowed = {int, float} if kinds & {int, float} else kinds
                found = {type(entry) for entry in self.flat(taken)}
                assert found <= allowed | {type(None)}, value
