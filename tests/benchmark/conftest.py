"""Shared by the tests of the benchmarks."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tools/benchmark.py"
PLAIN_SVIT = ("--config-file", str(ROOT / "configs/plain_svit_t.yaml"))
ONCE = ("--threads", "1", "--device", "cpu", "--images", "1", "--repeats", "1", "--warmup", "0")
"""Options that stand first, so that a test's own options replace them."""
TINY = (
    *("--no-memory", "MODEL.VIT.EMBED_DIM", "24", "MODEL.VIT.PATCH_SIZE", "8"),
    *("MODEL.SIMPLE_PYRAMID.OUT_CHANNELS", "8", "MODEL.SIMPLE_PYRAMID.SCALE_FACTORS", "[2.0,1.0]"),
    *("MODEL.SIMPLE_PYRAMID.TOP_BLOCK", "False", "MODEL.ANCHOR_GENERATOR.SIZES", "[[16],[32]]"),
    *("MODEL.RPN.IN_FEATURES", "['p2','p3']", "MODEL.ROI_HEADS.IN_FEATURES", "['p2','p3']"),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", "8", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"),
    *("MODEL.ROI_HEADS.NUM_CLASSES", "2", "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", "2"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "TEST.DETECTIONS_PER_IMAGE", "3"),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", "8", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1"),
)
"""A network of 24 channels, 12 blocks and patches of 8 with a small detector on it."""


class Ticks:
    """A clock that advances by one at each look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


@pytest.fixture
def ticks():
    """Factory: a fresh clock of ticks."""
    return Ticks


@dataclass(frozen=True)
class Ran:
    """What one run of the benchmark left."""

    problem: str | None
    printed: str
    warned: str
    folder: Path

    @property
    def results(self):
        """results.json."""
        assert self.problem is None
        return json.loads((self.folder / "results.json").read_text())


def run_inside(arguments, output):
    """The benchmark in this process, with its threads and log handlers as before afterwards."""
    from svit_det.cli.benchmark import main

    threads, quiet = torch.get_num_threads(), logging.getLogger().manager.disable
    logging.disable(logging.WARNING)
    try:
        # Before anything that could be an override: those come last.
        return main(["--output", str(output), *arguments])
    finally:
        torch.set_num_threads(threads)
        logging.disable(quiet)


@pytest.fixture
def benchmark(tmp_path, capsys):
    """Factory: `benchmark(*arguments)` runs it in this process; importing takes longest."""

    def run(*arguments):
        problem = run_inside(arguments, tmp_path / "out")
        said = capsys.readouterr()
        return Ran(problem, said.out, said.err, tmp_path / "out")

    return run


@pytest.fixture
def tiny(benchmark):
    """Factory: the same on the tiny network, timed once; `tiny(*options, overrides=())`."""

    def run(*options, overrides=()):
        return benchmark(*ONCE, *PLAIN_SVIT, *options, *TINY, *overrides)

    return run


@pytest.fixture(scope="session")
def outside():
    """Factory: `outside(*arguments, output=folder)` runs tools/benchmark.py as a user does."""

    def run(*arguments, output):
        return subprocess.run(
            [sys.executable, str(PROGRAM), *arguments, "--output", str(output)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def tiny_arguments():
    """Factory: the parsed command line of the tiny network, `tiny_arguments(*options)`."""
    from svit_det.cli.benchmark_options import parse_arguments

    return lambda *options, overrides=(): parse_arguments(
        [*ONCE, *PLAIN_SVIT, *options, *TINY, *overrides], ""
    )
