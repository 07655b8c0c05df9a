"""Two processes with half a batch each do what one does with the whole batch.

Run as a script, this file is one of the two processes: `test_distributed.py RANK FOLDER`.
"""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.testing import assert_close

from svit_det.policies.budget import KeepBudget
from svit_det.policies.gating import keep_ratio_loss
from svit_det.training.collectives import mean_over_processes

ROOT = Path(__file__).resolve().parents[2]
TARGETS = (0.7, 0.49)
INF = float("inf")


def the_data():
    """Four images of five tokens, three channels; and margins and decisions of two gates."""
    generator = torch.Generator().manual_seed(8)
    tokens = torch.randn(4, 5, 3, generator=generator)
    margins = torch.randn(2, 4, 5, generator=generator)
    keeps = torch.rand(2, 4, 5, generator=generator) < torch.tensor([0.7, 0.4]).reshape(2, 1, 1)
    return tokens, margins, keeps


def loss_and_gradient(tokens, per_image):
    weight = torch.tensor([[0.5, -1.0], [0.25, 0.75], [-0.5, 1.5]], requires_grad=True)
    gates = (tokens @ weight).sigmoid().unbind(-1)
    loss = keep_ratio_loss(gates, TARGETS, per_image=per_image, mean=mean_over_processes)
    loss.backward()
    return loss.item(), weight.grad


def track(budget, margins, keeps, images):
    budget.track(list(margins[:, images]), list(keeps[:, images]), mean_over_processes)


def one_process(rank, folder):
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=40),
    )
    torch.set_num_threads(1)
    tokens, margins, keeps = the_data()
    half = slice(2 * rank, 2 * rank + 2)
    found = {per_image: loss_and_gradient(tokens[half], per_image) for per_image in (False, True)}
    budget = KeepBudget(TARGETS)
    track(budget, margins, keeps, half)
    track(budget, margins.flip(2) * 3, keeps.flip(2), half)
    found["budget"] = budget.state_dict() | {"thresholds": budget.thresholds}
    # In one process the second gate has nothing to choose from: the step counts nowhere, and
    # neither waits for the other.
    if rank == 1:
        margins[1] = -INF
        keeps[1] = False
    track(budget, margins, keeps, half)
    found["after a step without a choice"] = budget.state_dict()
    torch.save(found, f"{folder}/{rank}.pth")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of the two processes came to."""
    folder = tmp_path_factory.mktemp("two_processes")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if sys.platform == "linux":  # a machine's own name need not resolve
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=90)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pth") for rank in range(2)]


@pytest.mark.parametrize("per_image", [False, True], ids=["batch", "per image"])
def test_the_mean_of_their_gradients_is_that_of_the_whole_batch(found, per_image):
    _, gradient = loss_and_gradient(the_data()[0], per_image)
    assert_close((found[0][per_image][1] + found[1][per_image][1]) / 2, gradient)


def test_both_see_the_loss_of_the_whole_batch(found):
    loss, _ = loss_and_gradient(the_data()[0], per_image=False)
    assert [rank[False][0] for rank in found] == pytest.approx([loss, loss])
    halves = [
        loss_and_gradient(the_data()[0][half], per_image=False)[0] for half in ([0, 1], [2, 3])
    ]
    assert sum(halves) / 2 != pytest.approx(loss)  # which is why it has to be gathered


def test_both_track_the_same_bits(found):
    for name, value in found[0]["budget"].items():
        assert torch.equal(value, found[1]["budget"][name]), name


def test_they_track_the_shares_of_the_whole_batch(found):
    _, _, keeps = the_data()
    assert found[0]["budget"]["num_batches_tracked"] == 2
    assert_close(found[0]["budget"]["kept_share"], keeps.float().mean(dim=(1, 2)))


def test_a_process_without_a_choice_does_not_keep_the_other_waiting(found):
    for rank in found:
        for name, value in rank["after a step without a choice"].items():
            assert torch.equal(value, rank["budget"][name]), name


if __name__ == "__main__":
    one_process(int(sys.argv[1]), sys.argv[2])
