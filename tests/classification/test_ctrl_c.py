"""Ctrl-C ends the training of a classifier with one line and exit status 130."""

import os
import re

import pytest
import torch


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("everyone", [True, False], ids=["terminal", "kill -INT"])
def test_a_training(interrupted, a_yaml, small, tmp_path, workers, everyone):
    folder = tmp_path / "run"
    options = small(SOLVER__EPOCHS=5000, DATA__NUM_WORKERS=workers)
    said = interrupted(
        *("train_classifier.py", "--config-file", a_yaml, *options),
        begun=lambda said: (folder / "last.pth").exists(),
        everyone=everyone,
    )
    logged = re.compile(r"\d{4}-\d\d-\d\d \d\d:")
    assert [line for line in said if not logged.match(line)] == [
        "train_classifier.py: stopped by Ctrl-C; --resume goes on from the last checkpoint."
    ]
    assert not [name for name in os.listdir(folder) if "partial" in name]
    torch.load(folder / "last.pth", weights_only=True)  # whole
