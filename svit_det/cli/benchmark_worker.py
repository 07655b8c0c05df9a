"""One checkout's dense and pruned arms in a process of their own, which runs turns on request.

    PYTHONPATH=FOLDER python benchmark_worker.py FOLDER

`tools/benchmark.py` runs this file for an older checkout and for several processes at a time; see
`svit_det.benchmark.worker` for the protocol. FOLDER may be older than this file. The file therefore
uses only parts of svit_det that old checkouts have too, and imports svit_det only after `main` has
prepared the search for modules.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any


class Arms:
    """One part of the model under its policy and under Dense, with the same weights."""

    def __init__(
        self, *, config: str, options: list[str], part: str, weights: str, dtype: str, threads: int
    ) -> None:
        import torch
        from detectron2.modeling import build_backbone, build_model

        from svit_det.detection import load_config
        from svit_det.policies.dense import Dense

        torch.set_num_threads(threads)
        # As in the process that asks, whatever an older checkout does.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        cfg = load_config(config, options)
        build = build_model if part == "detector" else build_backbone
        torch.manual_seed(0)
        half = getattr(torch, dtype)
        # A whole detector has weights in float32 and runs under autocast.
        self.mixed = half if part == "detector" and half != torch.float32 else None
        own = torch.float32 if self.mixed else half
        whole = build(cfg).to(cfg.MODEL.DEVICE, own).eval()
        self.trunk = next(m for m in whole.modules() if type(m).__name__ == "TokenTrunk")
        self.model: Any = self.trunk if part == "blocks" else whole
        self.model.load_state_dict(torch.load(weights, map_location=cfg.MODEL.DEVICE), strict=True)
        self.policies = {"pruned": self.trunk.policy, "dense": Dense().eval()}
        self.part, self.device = part, torch.device(cfg.MODEL.DEVICE)
        self.inputs: list[Any] = []

    def take_inputs(self, path: str) -> None:
        """Read the inputs that the arms run on from now on; for blocks, embed the images."""
        import torch

        images = torch.load(path, map_location=self.device)
        self.inputs = [self.trunk.embed(each) for each in images] if self._blocks else images

    @property
    def _blocks(self) -> bool:
        return self.part == "blocks"

    def once(self, arm: str, index: int) -> Any:
        """Run one pass of an arm on one of the inputs."""
        self.trunk.policy = self.policies[arm]
        given = self.inputs[index]
        if self._blocks:
            return self.trunk.run(given, 0, self.trunk.depth)
        if self.mixed is None:
            return self.model(given)
        import torch

        with torch.autocast(self.device.type, dtype=self.mixed):
            return self.model(given)

    def timed(self, arm: str, index: int) -> float:
        """The seconds that one pass of an arm takes."""
        self._wait()
        start = time.perf_counter()
        self.once(arm, index)
        self._wait()
        return time.perf_counter() - start

    def save_maps(self, arm: str, path: str) -> None:
        """Write the tensors that `maps_of` finds in a pass on the first input."""
        import torch

        maps = maps_of(self.part, self.once(arm, 0))
        torch.save([each.float().cpu() for each in maps], path)

    def _wait(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def maps_of(part: str, done: Any) -> list[Any]:
    """A backbone's maps, the patch tokens after the blocks, or a detector's boxes and scores."""
    if part == "detector":
        found = done[0]["instances"]
        return [found.pred_boxes.tensor, found.scores]
    return [done.patches] if part == "blocks" else [done[name] for name in sorted(done)]


def answer(arms: Arms, do: str, **asked: Any) -> Any:
    """Do what one request asks for; returns the answer."""
    if do == "inputs":
        return arms.take_inputs(**asked)
    if do == "run":
        return arms.timed(**asked)
    if do == "run all":
        return sum(arms.timed(index=index, **asked) for index in range(len(arms.inputs)))
    return arms.save_maps(**asked)


def check_origin(folder: str) -> None:
    """Raises RuntimeError where some module of svit_det is not from `folder`."""
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if name.partition(".")[0] != "svit_det" or path is None:
            continue
        if not Path(path).resolve().is_relative_to(Path(folder).resolve()):
            raise RuntimeError(f"{name} would come from {path}, not from this folder.")


def serve(say: Callable[[Any], None], folder: str) -> None:
    """Answer requests until the input ends."""
    import torch

    arms: Any = None
    with torch.no_grad():
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                if asked["do"] == "build":
                    del asked["do"]
                    arms, done = Arms(**asked), None
                    check_origin(folder)
                else:
                    done = answer(arms, **asked)
            # An older checkout may fail with any exception; the process that asked is told.
            except Exception as error:
                say({"problem": shorten(f"{type(error).__name__}: {error}", 300)})
            else:
                say({"done": done})


def main(folder: str) -> None:
    """Keep stdout for answers; everything that libraries print goes to stderr."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # Without this, an editable installation would supply modules that the folder does not have.
    sys.meta_path[:] = [
        finder
        for finder in sys.meta_path
        if not getattr(finder, "__module__", "").startswith("__editable__")
    ]
    try:
        from svit_det.startup import prepare_process
    except ImportError:  # the first checkouts have no such module
        pass
    else:
        prepare_process()

    def say(answer: Any) -> None:
        out.write(json.dumps(answer) + "\n")
        out.flush()

    serve(say, folder)


if __name__ == "__main__":
    main(sys.argv[1])
