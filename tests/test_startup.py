"""What a program does before it imports torch: keep freed memory, unless others decide."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
from svit_det.startup import keep_freed_memory
import resource
print(keep_freed_memory())
import torch
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(20):
    if turn == 16:  # by then the heap's small pieces between large buffers have found their places
        before = faults()
    buffer = torch.ones(32 * 2**20)
    del buffer
print(faults() - before)
"""
PAGES = 4 * 128 * 2**20 // 4096
"""Of four buffers of 128 MB."""


def run(**environment):
    """Whether memory is kept, and the page faults of four large buffers after sixteen."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    clean.pop("SVIT_DET_ALLOCATOR", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**clean, "THP_MEM_ALLOC_ENABLE": "0", **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return done.stderr
    said, faults = done.stdout.split()
    return said == "True", int(faults)


def test_freed_memory_is_kept():
    kept, faults = run()
    assert kept and faults < PAGES / 50


def test_the_switch_leaves_the_allocator_as_it_is():
    kept, faults = run(SVIT_DET_ALLOCATOR="system")
    assert not kept and faults > PAGES / 2


@pytest.mark.parametrize(
    "environment",
    [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}],
    ids=str,
)
def test_what_the_user_set_for_glibc_counts(environment):
    assert run(**environment)[0] is False


def test_an_unknown_choice():
    assert "SVIT_DET_ALLOCATOR=jemalloc: choose keep or system." in run(
        SVIT_DET_ALLOCATOR="jemalloc"
    )


def test_another_c_library_is_left_alone(monkeypatch):
    from svit_det import startup

    monkeypatch.delenv("SVIT_DET_ALLOCATOR", raising=False)
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(startup.ctypes, "CDLL", lambda _: object())
    assert startup.keep_freed_memory() is False


INTERRUPTED = """
from svit_det.startup import prepare_process
prepare_process()
import atexit
atexit.register(print, "cleaned up")
raise KeyboardInterrupt
"""


@pytest.mark.parametrize(
    ("kind", "name", "status"),
    [
        ("KeyboardInterrupt", "Ctrl-C", 130),
        ("__import__('svit_det.interrupts').interrupts.Terminated", "SIGTERM", 143),
    ],
)
def test_a_signal_is_one_line_and_its_status(kind, name, status):
    command = [sys.executable, "-c", INTERRUPTED.replace("KeyboardInterrupt", kind)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status
    assert done.stderr == f"-c: stopped by {name}.\n"
    assert done.stdout == "cleaned up\n"


def test_other_exceptions_are_told_as_ever():
    command = [sys.executable, "-c", INTERRUPTED.replace("KeyboardInterrupt", "ValueError('x')")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and done.stderr.endswith("ValueError: x\n")


TURNS = """
from svit_det.startup import prepare_process
prepare_process()
import torch
layer = torch.nn.Conv2d(16, 16, 3)
with torch.inference_mode():
    for turn in range(600):
        layer(torch.ones(1, 16, 8, 8 + turn % 300))
"""


def compiled(program, **environment):
    """How often oneDNN compiled an operation because it had none in memory."""
    environment = {**os.environ, "ONEDNN_VERBOSE": "2", "OMP_NUM_THREADS": "1", **environment}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return run.stdout.count("create:cache_miss")


def test_few_compiled_operations_stay_in_memory():
    """Of 300 sizes in turn none is there when it comes again, unless the user asks for more."""
    more = compiled(TURNS, ONEDNN_PRIMITIVE_CACHE_CAPACITY="2000")
    assert more >= 300
    assert compiled(TURNS) >= more + 300
