"""Ten thousand passes of images of every size leave the process as large as five hundred did."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]

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
after = {}
with torch.inference_mode():
    for number in range(1, int(sys.argv[1]) + 1):
        trunk = trunks[number % len(trunks)]
        size = [4 * draw.randint(1, 16) for _ in range(2)]
        trunk(torch.randn(draw.randint(1, 3), 3, *size))
        if number in (500, int(sys.argv[1])):
            after[number] = resident()
print(*after.values())
"""


def resident_after(passes):
    """MB after pass 500 and after the last one."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(passes)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [float(word) for word in run.stdout.split()]


@pytest.mark.long
def test_memory_of_ten_thousand_passes():
    early, late = resident_after(10_000)
    assert early * 0.95 < late < early * 1.05
