"""Checks that need the device itself: laws, waits, ragged attention, captured and compiled graphs.

Each check runs on a CPU too, so that a machine without a GPU tests the checks. Parts that a CPU
lacks return None, or the reason why they were skipped. `time_compiled` is for a caller that has
asked `on_cuda`.

B images, N patch tokens, L blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svit_det.benchmark.arms import count_host_syncs, settle
from svit_det.benchmark.timing import time_interleaved
from svit_det.policies import POLICY_REGISTRY, TrunkShape, build_policy
from svit_det.tokens import PassRecord
from svit_det.vit import Execution, Masked, Padded, TokenTrunk, build_trunk

NO_GPU = "needs a CUDA device"
FIXED, BY_IMAGE = "fixed", "by image"
"""Kinds of counts of tokens: known before the pass, or dependent on the image."""


@dataclass(frozen=True)
class Case:
    """The sizes of the trunk and the images that are checked."""

    shape: TrunkShape
    grid: tuple[int, int]
    patch_size: int = 16
    batch: int = 2
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def trunk(self, policy: str, settings: Mapping[str, Any] | None = None) -> TokenTrunk:
        """A seeded trunk under `policy`, settled, in evaluation, on the device."""
        torch.manual_seed(0)
        config = POLICY_REGISTRY.get(policy).Config(**(settings or {}))
        trunk = build_trunk(
            policy=build_policy(policy, shape=self.shape, config=config),
            patch_size=self.patch_size,
            in_channels=3,
            embed_dim=self.shape.embed_dim,
            depth=self.shape.depth,
            num_heads=self.shape.num_heads,
        )
        settle(trunk)
        return trunk.to(self.device, self.dtype).eval()

    def images(self, seed: int) -> Tensor:
        """(B, 3, height, width) noise; other seeds give other pictures."""
        size = [side * self.patch_size for side in self.grid]
        noise = torch.randn(self.batch, 3, *size, generator=torch.Generator().manual_seed(seed))
        return noise.to(self.device, self.dtype)


def on_cuda(device: str) -> bool:
    """Whether the device is CUDA, which alone captures graphs and has ragged attention."""
    return torch.device(device).type == "cuda"


def run_trunk(trunk: TokenTrunk, images: Tensor) -> tuple[Tensor, PassRecord]:
    """(B, N, C) the map, and the record of the pass."""
    state = trunk(images)
    patches = trunk.read_map(state)
    return patches, PassRecord.of(state, patches)


@torch.no_grad()
def check_laws(case: Case, policies: Iterable[str]) -> dict[str, dict[str, float]]:
    """By policy, the largest differences of the map from the map under packed execution.

    The other ways are `masked`, `padded` with room for all, and `single`: the images one by one.
    """
    found = {}
    for name in policies:
        trunk, images = case.trunk(name), case.images(1)
        packed, _ = run_trunk(trunk, images)
        ways = {}
        for way, execution in (("masked", Execution(Masked())), ("padded", Execution(Padded(1.0)))):
            trunk.execution = execution
            ways[way] = run_trunk(trunk, images)[0]
        trunk.execution = Execution()
        ways["single"] = torch.cat([run_trunk(trunk, image)[0] for image in images.split(1)])
        found[name] = {way: (each - packed).abs().max().item() for way, each in ways.items()}
    return found


@torch.no_grad()
def check_host_syncs(case: Case, policies: Iterable[str]) -> dict[str, dict[str, int | None]]:
    """By policy and count, how many times one pass makes the host wait; None on a CPU.

    A count is FIXED or BY_IMAGE; a policy that has both is asked for both.
    """
    found: dict[str, dict[str, int | None]] = {}
    for name in policies:
        found[name] = {}
        fixed = POLICY_REGISTRY.get(name).Config.fixed_count
        for settings in ({}, fixed) if fixed else ({},):
            trunk, images = case.trunk(name, settings), case.images(1)
            _, record = run_trunk(trunk, images)
            count = FIXED if has_known_counts(record) else BY_IMAGE
            found[name][count] = count_host_syncs(partial(trunk, images), case.device)
    return found


def has_known_counts(record: PassRecord) -> bool:
    """Whether every block of the pass knew its number of rows beforehand."""
    return all(block.selection.total is not None for block in record.blocks)


@torch.no_grad()
def check_graphs(case: Case, policies: Iterable[str]) -> dict[str, Any]:
    """By policy, whether a captured pass, replayed on two other inputs, equals eager bit by bit.

    Policies whose counts are known beforehand run as they are; other policies run under `Padded`
    with room for all.
    """
    if not on_cuda(case.device):
        return {"skipped": NO_GPU}
    found: dict[str, Any] = {}
    for name in policies:
        trunk = case.trunk(name, POLICY_REGISTRY.get(name).Config.fixed_count)
        record = run_trunk(trunk, case.images(1))[1]
        if not has_known_counts(record):
            trunk.execution = Execution(Padded(1.0))
        try:
            found[name] = _replayed_equal(trunk, case)
        except RuntimeError as problem:
            found[name] = f"cannot be captured: {str(problem).splitlines()[0]}"
    return found


def _replayed_equal(trunk: TokenTrunk, case: Case) -> bool:
    given = case.images(1)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # libraries must be set up before the capture
            run_trunk(trunk, given)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run_trunk(trunk, given)[0]
    equal = True
    for seed in (2, 3):
        other = case.images(seed)
        given.copy_(other)
        graph.replay()
        equal = equal and torch.equal(captured, run_trunk(trunk, other)[0])
    return equal


@torch.no_grad()
def time_compiled(
    case: Case,
    policies: Iterable[str],
    *,
    repeats: int,
    mode: str | None = "max-autotune",
    backend: str = "inductor",
) -> dict[str, Any]:
    """Eager over compiled time of a pass, for policies with known counts.

    `mode` and `backend` are those of `torch.compile`. On a CPU the default ones take minutes.
    """
    found = {}
    for name in policies:
        trunk, images = (
            case.trunk(name, POLICY_REGISTRY.get(name).Config.fixed_count),
            case.images(1),
        )
        torch.compiler.reset()
        eager = partial(run_trunk, trunk)
        compiled = torch.compile(_MapAlone(trunk), mode=mode, backend=backend)
        timings = time_interleaved(
            {"eager": eager, "compiled": compiled},
            [images],
            repeats=repeats,
            warmup=3,
            device=case.device,
        )
        found[name] = {
            "ratio": vars(timings.ratio("eager", "compiled")),
            "seconds": timings.seconds,
        }
    return found


class _MapAlone(nn.Module):
    """A trunk that returns its map without the record, which a graph cannot return."""

    def __init__(self, trunk: TokenTrunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> Tensor:
        """(B, N, C) the map."""
        return run_trunk(self.trunk, images)[0]


VARLEN = "varlen"
"""The name of torch's own attention over ragged rows."""
Attend = Callable[[Tensor], Tensor]
"""(3, T, h, d) queries, keys and values of all images together -> (T, h, d)."""


def ragged_attentions(lengths: Sequence[int], device: str) -> dict[str, Attend]:
    """Ways to attend within images of unequal lengths: one by one, padded, and `varlen` on CUDA."""
    batch, longest = len(lengths), max(lengths)
    image = torch.repeat_interleave(torch.tensor(lengths)).to(device)
    starts = [0, *accumulate(lengths)]
    bounds = torch.tensor(starts, dtype=torch.int32, device=device)
    place = torch.arange(sum(lengths), device=device) - bounds[image]
    mask = torch.arange(longest, device=device) < torch.tensor(lengths, device=device).unsqueeze(1)

    def one_by_one(qkv: Tensor) -> Tensor:
        images = [part.transpose(1, 2).unsqueeze(1) for part in qkv.split(list(lengths), dim=1)]
        outs = [F.scaled_dot_product_attention(*each)[0].transpose(0, 1) for each in images]
        return torch.cat(outs)

    def padded(qkv: Tensor) -> Tensor:
        room = qkv.new_zeros(3, batch, longest, *qkv.shape[2:])
        room[:, image, place] = qkv
        query, key, value = room.transpose(2, 3)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        return out.transpose(1, 2)[image, place]

    def varlen(qkv: Tensor) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        out = varlen_attn(*qkv.unbind(), bounds, bounds, longest, longest)
        assert isinstance(out, Tensor)
        return out

    ways: dict[str, Attend] = {"one_by_one": one_by_one, "padded": padded}
    return {**ways, VARLEN: varlen} if on_cuda(device) else ways


@torch.no_grad()
def time_ragged_attention(case: Case, lengths: Sequence[int], *, repeats: int) -> dict[str, Any]:
    """Differences of each way from `one_by_one` on the same rows, seconds, and what is missing."""
    heads = case.shape.num_heads
    generator = torch.Generator().manual_seed(1)
    size = (3, sum(lengths), heads, case.shape.embed_dim // heads)
    qkv = torch.randn(size, generator=generator).to(case.device, case.dtype)
    ways = ragged_attentions(lengths, case.device)
    missing = why_not(ways.get(VARLEN), qkv)
    if missing is not None:
        ways.pop(VARLEN, None)
    expected = ways["one_by_one"](qkv)
    timings = time_interleaved(ways, [qkv], repeats=repeats, warmup=2, device=case.device)
    return {
        "lengths": list(lengths),
        "dtype": str(case.dtype).removeprefix("torch."),
        "difference": {way: (run(qkv) - expected).abs().max().item() for way, run in ways.items()},
        "missing": {} if missing is None else {VARLEN: missing},
        "seconds": timings.seconds,
    }


def why_not(varlen: Attend | None, qkv: Tensor) -> str | None:
    """The reason why torch's attention over ragged rows cannot run here; None where it can."""
    if varlen is None:
        return NO_GPU
    if qkv.dtype == torch.float32:
        return "works in half precision only"
    try:
        varlen(qkv)
    except ImportError:
        return f"torch {torch.__version__} has none"
    except RuntimeError as problem:  # such as an old GPU's
        return str(problem).splitlines()[0]
    return None
