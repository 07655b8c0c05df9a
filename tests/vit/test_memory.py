"""Ten thousand passes of images of every size leave the process as large as the first 500 did.

They are of a few small images each, and nothing of them may stay. After them come some passes whose
buffers are above 32 MB, from where on glibc maps each buffer by itself unless it is told not to.
With that setting they share the heap with the small ones, which may not cut it into pieces.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]

GROWTH = 8
"""MB: less than 3 KB of every pass."""

# In a process of its own, under the allocator setting that the programs give themselves.
PROGRAM = """
from svit_det.startup import prepare_process
prepare_process()
import random, sys, torch
from svit_det.policies import POLICY_REGISTRY, TrunkShape, build_policy
from svit_det.vit import build_trunk

def resident():
    pages = open("/proc/self/statm").read().split()[1]
    return int(pages) * 4096 / 2**20

torch.set_num_threads(1)
torch.manual_seed(0)
draw = random.Random(0)
shape = TrunkShape(24, 4, 3)
trunks = []
for name in POLICY_REGISTRY.names():
    policy = build_policy(name, shape=shape, config=POLICY_REGISTRY.get(name).Config(
        **({"layers": (1, 2), "keep_ratios": (0.7, 0.4)}
           if "layers" in POLICY_REGISTRY.get(name).Config.described() else {})))
    trunks.append(build_trunk(policy=policy, patch_size=4, embed_dim=24, depth=4, num_heads=3,
                              mlp_ratio=2.0, pretrain_grid=(3, 5)).eval())

def small():
    return torch.randn(draw.randint(1, 3), 3, *(4 * draw.randint(1, 16) for _ in range(2)))

def large():
    return torch.randn(draw.randint(1400, 2800), 3, *(4 * draw.randint(6, 8) for _ in range(2)))

def resident_after(passes, *, large_one_in=None):
    for number in range(passes):
        images = large() if large_one_in and number % large_one_in == 0 else small()
        draw.choice(trunks)(images)
    return resident()

with torch.inference_mode():
    # What is kept for each size of grid is there after 3,500 of the 10,000 passes.
    print(resident_after(500), resident_after(3000), resident_after(6500))
    for trunk in trunks:  # each policy at its largest once, from which the process may not grow
        images = torch.randn(2800, 3, 32, 32)
        assert images.nbytes > 32 * 2**20
        trunk(images)
    print(resident_after(300), resident_after(1200, large_one_in=100))
"""


@pytest.mark.long
def test_memory_of_ten_thousand_passes():
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    first, early, late, largest, mixed = map(float, run.stdout.split())
    assert abs(late - first) < 0.05 * first, (first, late)
    assert abs(late - early) < GROWTH, (early, late)
    assert largest > early + 100  # the large passes were large
    assert abs(mixed - largest) < GROWTH, (largest, mixed)
