#!/usr/bin/env python3
"""The blocks of this tree against those of commit 0af0fd8, interleaved: is the new code as fast?

    git worktree add ../before 0af0fd8
    python benchmarks/before_after.py --old ../before [--tokens 256 4200] [--threads 1 2]

Two processes, one per tree, take turns on command; the order turns around each round. Both have the
same weights and images. A ratio is new / old of one round, below 1 where the new code is faster.
How a process lies in memory is worth some percent, so that each case is measured in several
launches of fresh processes; printed are the median over all rounds, and the lowest and highest
median of a launch. `--old .` shows what the method itself makes of equal code.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TREES = ("old", "new")
POLICIES = ("Dense", "SViT", "EViT", "ATS", "EvoViT")
SIZES = {"T": (192, 3), "S": (384, 6)}
GRIDS = {256: (16, 16), 4200: (50, 84)}
PATCH = 16


# ------------------------------------------------------------------ in a worker


def build_old(name, width, heads):
    from svit_det import policies
    from svit_det.vit import TokenTrunk

    steps = (0.7, 0.49, 0.343)
    nine = {"layers": range(3, 12), "keep_ratios": [share for share in steps for _ in range(3)]}
    options = {
        "Dense": {},
        "SViT": {"embed_dim": width, "depth": 12, "mode": "quota", **nine},
        "EViT": {"embed_dim": width, "depth": 12, "layers": (3, 6, 9), "keep_ratios": steps},
        "ATS": {"depth": 12, **nine},
        "EvoViT": {
            "embed_dim": width,
            "depth": 12,
            "layers": range(4, 12),
            "keep_ratios": [0.5] * 8,
        },
    }[name]
    policy = getattr(policies, name)(**options)
    return TokenTrunk(policy=policy, patch_size=PATCH, embed_dim=width, num_heads=heads)


def build_new(name, width, heads):
    from svit_det.policies import POLICY_REGISTRY, TrunkShape, build_policy
    from svit_det.vit import build_trunk

    config = POLICY_REGISTRY.get(name).Config(**({"mode": "quota"} if name == "SViT" else {}))
    policy = build_policy(name, shape=TrunkShape(width, 12, heads), config=config)
    return build_trunk(policy=policy, patch_size=PATCH, embed_dim=width, num_heads=heads)


def worker(tree, folder):
    import torch

    import svit_det

    assert svit_det.__file__.startswith(folder + "/"), svit_det.__file__
    build = build_new if Path(folder, "svit_det/vit/build.py").is_file() else build_old
    torch.set_grad_enabled(False)
    trunk = state = None
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "set up":
            torch.set_num_threads(asked["threads"])
            width, heads = SIZES[asked["size"]]
            torch.manual_seed(0)
            trunk = build(asked["policy"], width, heads)
            if tree == "new":
                torch.save(trunk.state_dict(), asked["weights"])
            else:
                trunk.load_state_dict(torch.load(asked["weights"]), strict=True)
            trunk.eval()
            height, columns = (side * PATCH for side in GRIDS[asked["tokens"]])
            generator = torch.Generator().manual_seed(1)
            images = torch.randn(asked["batch"], 3, height, columns, generator=generator)
            state = trunk.embed(images)
            done = trunk.run(state, 0, 12)
            torch.save(done.patches.clone(), asked["output"])
            if build is build_new:
                keeps = [block.selection.keep for block in done.history]
            else:
                keeps = [selection.keep for selection in done.trace]
            answer = {"kept": [keep.sum(dim=1).tolist() for keep in keeps]}
        else:
            gc.collect()
            gc.disable()
            trunk.run(state, 0, 12)  # fills the caches again
            start = time.perf_counter()
            for _ in range(asked["calls"]):
                trunk.run(state, 0, 12)
            answer = {"seconds": (time.perf_counter() - start) / asked["calls"]}
            gc.enable()
        print(json.dumps(answer), flush=True)


# ------------------------------------------------------------------ outside


class Worker:
    """A tree in a process of its own."""

    def __init__(self, tree, folder):
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_WAIT_POLICY": "PASSIVE"}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "--worker", tree, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=folder,
        )

    def ask(self, **asked):
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit("A worker has failed; its traceback stands above.")
        return json.loads(answer)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def set_up(workers, case, folder):
    """Give both trees the same weights; says whether they keep and compute the same."""
    import torch

    weights = str(folder / "weights.pth")
    kept, outputs = {}, {}
    for tree in ("new", "old"):  # the new one writes the weights
        output = str(folder / f"{tree}.pt")
        kept[tree] = workers[tree].ask(do="set up", weights=weights, output=output, **case)["kept"]
        outputs[tree] = torch.load(output)
    difference = (outputs["old"] - outputs["new"]).abs().max().item()
    return {"same_kept_counts": kept["old"] == kept["new"], "largest_difference": difference}


def take_turns(workers, args):
    """Seconds of one pass, round by round."""
    once = workers["old"].ask(do="run", calls=1)["seconds"]
    calls = max(1, round(args.turn / once))
    seconds = {tree: [] for tree in TREES}
    for number in range(args.rounds):
        for tree in TREES if number % 2 == 0 else TREES[::-1]:
            seconds[tree].append(workers[tree].ask(do="run", calls=calls)["seconds"])
    return seconds


def summarise(launches):
    """Of the seconds of several launches."""
    ratios = [[n / o for n, o in zip(each["new"], each["old"])] for each in launches]
    medians = [statistics.median(each) for each in ratios]
    return {
        **{
            f"{tree}_ms": 1000 * statistics.median(s for each in launches for s in each[tree])
            for tree in TREES
        },
        "new_over_old": statistics.median(ratio for each in ratios for ratio in each),
        "medians_of_launches": sorted(medians),
        "raw_seconds": launches,
    }


def count(word):
    """A whole number of one or more, for argparse."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word} is no whole number of one or more")
    return int(word)


def main():
    """Every case in every launch, then one line a case."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--old", help="folder of the commit before")
    add("--new", default=".", help="folder of the tree to judge")
    add("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    add("--tokens", nargs="+", type=int, choices=GRIDS, default=list(GRIDS))
    add("--threads", nargs="+", type=count, default=[1])
    add("--launches", type=count, default=5, help="of fresh processes")
    add("--rounds", type=count, default=5, help="pairs of turns in each launch")
    add("--turn", type=float, default=0.3, help="seconds of a turn, at least one call")
    add("--output", default="output/before_after.json")
    add("--overwrite", action="store_true", help="replace results that are there")
    add("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(*args.worker)
        return
    if not args.old:
        parser.error("--old is missing: the folder of the commit before")
    folders = {tree: str(Path(getattr(args, tree)).resolve()) for tree in TREES}
    for tree, folder in folders.items():
        if not Path(folder, "svit_det").is_dir():
            parser.error(f"--{tree} {getattr(args, tree)}: has no svit_det; name a checkout")
    if os.path.lexists(args.output) and not args.overwrite:
        parser.error(f"--output {args.output}: is there already; give --overwrite")
    cases = [
        {"policy": policy, "size": size, "tokens": tokens, "batch": 1, "threads": threads}
        for threads in args.threads
        for tokens in args.tokens
        for size in args.sizes
        for policy in args.policies
    ]
    checks, launches = [None] * len(cases), [[] for _ in cases]
    for number in range(args.launches):
        workers = {}
        # Started in turn too: the first process of a pair may get the better memory.
        for tree in TREES if number % 2 == 0 else TREES[::-1]:
            workers[tree] = Worker(tree, folders[tree])
        with tempfile.TemporaryDirectory() as folder:
            for index, case in enumerate(cases):
                checks[index] = set_up(workers, case, Path(folder))
                launches[index].append(take_turns(workers, args))
                print(f"launch {number + 1}, case {index + 1} of {len(cases)}", file=sys.stderr)
        for each in workers.values():
            each.close()
    found = [
        {**case, **check, **summarise(each)} for case, check, each in zip(cases, checks, launches)
    ]
    print(f"{'case':<34}{'old ms':>9}{'new ms':>9}  new / old (medians of launches)")
    for one in found:
        title = (
            f"{one['policy']} ViT-{one['size']}, {one['tokens']} tokens, {one['threads']} threads"
        )
        low, high = one["medians_of_launches"][0], one["medians_of_launches"][-1]
        same = "" if one["same_kept_counts"] else "   OTHER TOKENS KEPT"
        print(
            f"{title:<34}{one['old_ms']:>9.1f}{one['new_ms']:>9.1f}  "
            f"{one['new_over_old']:.3f} ({low:.3f}-{high:.3f}){same}"
        )
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    Path(args.output).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
