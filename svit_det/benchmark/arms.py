"""What is compared: the same weights under different policies, and what each of them costs.

B images, N patch tokens, L blocks.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from svit_det.benchmark.schedule import FixedSchedule, spread_counts
from svit_det.policies import ATS, Dense, TokenPolicy
from svit_det.tokens import TokenState, TokenTrace
from svit_det.vit import TokenTrunk
from svit_det.vit.flops import TrunkMacs, block_macs, trunk_macs

Model = TypeVar("Model", bound=nn.Module)


def find_trunk(model: nn.Module) -> TokenTrunk:
    """The trunk inside `model`."""
    return next(module for module in model.modules() if isinstance(module, TokenTrunk))


def with_policy(model: Model, policy: TokenPolicy) -> Model:
    """A twin of `model` with another policy in its trunk; both hold the very same weights."""
    tensors = chain(model.parameters(), model.buffers())
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    find_trunk(twin).policy = policy
    return twin.eval()


def policy_arms(model: Model) -> dict[str, Model]:
    """`dense`, `pruned`, the model under its own policy, and `keep_all`, that policy at keep = 1.

    Dense has the class token that the policy needs. ATS, which always drops someone, has no
    `keep_all`.
    """
    policy = find_trunk(model).policy
    arms = {"dense": with_policy(model, Dense()), "pruned": model.eval()}
    if isinstance(policy, ATS):
        return arms
    keep_all = copy.deepcopy(policy)
    keep_all.set_keep_ratio(1.0)
    return {"keep_all": with_policy(model, keep_all), **arms}


def run_stack(trunk: TokenTrunk) -> Callable[[TokenState], TokenState]:
    """All blocks of `trunk`, on tokens that are embedded already."""
    return lambda state: trunk.run(state, 0, trunk.depth)


def split_state(state: TokenState) -> list[TokenState]:
    """The images of a batch, one by one."""
    return [
        replace(state, patches=patches[None], extra=extra[None])
        for patches, extra in zip(state.patches, state.extra, strict=True)
    ]


def one_by_one(
    run: Callable[[Any], Any], split: Callable[[Any], Sequence[Any]]
) -> Callable[[Any], None]:
    """The same images as so many batches of one."""

    def run_each(batch: Any) -> None:
        for single in split(batch):
            run(single)

    return run_each


def schedule_arms(
    trunk: TokenTrunk, mean_counts: Sequence[int], batch_size: int, num_tokens: int, spread: float
) -> tuple[dict[str, Callable[[TokenState], Any]], Tensor]:
    """Arms without a decider: `equal` and `different` counts per image, of the same total.

    `different_one_by_one` is the same work as `different`, image by image. Also returns the (B, L)
    counts of `different`.
    """
    device = trunk.pos_embed.device
    different = spread_counts(mean_counts, batch_size, num_tokens, spread=spread)
    equal = torch.tensor(mean_counts).repeat(batch_size, 1)
    schedule = FixedSchedule(different, num_tokens).to(device)
    alone = [run_stack(with_policy(trunk, schedule.of_image(image))) for image in range(batch_size)]

    def run_alone(state: TokenState) -> None:
        for run, single in zip(alone, split_state(state), strict=True):
            run(single)

    arms = {
        "equal": run_stack(with_policy(trunk, FixedSchedule(equal, num_tokens).to(device))),
        "different": run_stack(with_policy(trunk, schedule)),
        "different_one_by_one": run_alone,
    }
    return arms, different


def stack_macs(trunk: TokenTrunk, state: TokenState) -> tuple[TrunkMacs, TokenTrace]:
    """Run the blocks once on `state` and count what ran."""
    done = run_stack(trunk)(state)
    trace = TokenTrace(done.trace, done.grid)
    return trunk_macs(trunk, trace), trace


def stack_macs_of_counts(trunk: TokenTrunk, counts: Tensor) -> int:
    """All blocks on (B, L) tokens, those off the grid among them, decisions free."""
    mlp_ratio = trunk.blocks[0].mlp.fc1.out_features / trunk.embed_dim
    macs = block_macs(counts, counts, embed_dim=trunk.embed_dim, mlp_ratio=mlp_ratio)
    return int(macs.sum())


def count_host_syncs(run: Callable[[], Any], device: torch.device | str) -> int | None:
    """How often `run` makes the host wait for the GPU; None without one."""
    if torch.device(device).type != "cuda":
        return None
    torch.cuda.synchronize(device)
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    return sum("synchronizing CUDA operation" in str(entry.message) for entry in caught)
