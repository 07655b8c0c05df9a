"""What is compared: the same weights under different policies, and what each of them costs.

B images, N patch tokens, L blocks.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from svit_det.benchmark.schedule import FixedSchedule, spread_counts
from svit_det.errors import InputError
from svit_det.policies import TokenPolicy
from svit_det.policies.dense import Dense
from svit_det.tokens import PassRecord, TokenState
from svit_det.vit import TokenTrunk, find_token_net
from svit_det.vit.flops import TrunkMacs, trunk_macs

Model = TypeVar("Model", bound=nn.Module)
Stack = Callable[[TokenState], TokenState]
"""All blocks of a trunk, on tokens that are embedded already."""


def trunk_of(model: nn.Module) -> TokenTrunk:
    """The trunk of the network in `model`; a trunk alone is its own."""
    return model if isinstance(model, TokenTrunk) else find_token_net(model).trunk


def with_policy(model: Model, policy: TokenPolicy) -> Model:
    """A twin of `model` with another policy in its trunk; both hold the very same weights."""
    tensors = chain(model.parameters(), model.buffers())
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    trunk_of(twin).policy = policy
    return twin.eval()


def without_class_token(model: Model) -> Model:
    """A twin of `model` that keeps every token and has no class token; the weights are the same."""
    twin = with_policy(model, Dense())
    trunk_of(twin).register_parameter("cls_token", None)
    return twin


SPREAD, SIDE, IMAGES = 0.05, 16, 4
"""Of `settle`: what weights are spread by, and tokens a side and images of the noise."""


@torch.no_grad()
def settle(trunk: TokenTrunk) -> None:
    """Let fresh weights divide tokens about as trained ones do.

    Decisions may start alike for all tokens, and thresholds at nothing: the policy's weights are
    spread a little, and the policy tracks one training pass on noise.
    """
    for parameter in trunk.policy.parameters():
        parameter.add_(SPREAD * torch.randn_like(parameter))
    weight, side = trunk.patch_embed.proj.weight, SIDE * trunk.patch_size
    state = trunk.train()(weight.new_empty(IMAGES, weight.shape[1], side, side).normal_())
    trunk.policy.track(PassRecord.of(state, trunk.read_map(state)))
    trunk.eval()


def policy_arms(model: Model) -> dict[str, Model]:
    """`dense`, `pruned`, the model under its own policy, and `keep_all`, that policy at keep = 1.

    Dense has the class token too where the model has one. There is no `keep_all` of a policy
    without a budget, nor of one that skips a token even at the full budget.
    """
    policy = trunk_of(model).policy
    arms = {"dense": with_policy(model, Dense()), "pruned": model.eval()}
    everyone = at_full_budget(policy)
    return arms if everyone is None else {"keep_all": with_policy(model, everyone), **arms}


def at_full_budget(policy: TokenPolicy) -> TokenPolicy | None:
    """A twin that keeps every token; None where the policy cannot be set to that."""
    if policy.always_skips:
        return None
    twin = copy.deepcopy(policy)
    try:
        twin.set_keep_ratio(1.0)
    except InputError:
        return None
    return twin


def run_stack(trunk: TokenTrunk) -> Stack:
    """All blocks of `trunk`."""
    return lambda state: trunk.run(state, 0, trunk.depth)


def split_state(state: TokenState) -> list[TokenState]:
    """The images of a batch, one by one."""
    return [state.image(index) for index in range(len(state.tokens))]


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
) -> tuple[dict[str, TokenTrunk], Callable[[TokenState], None], Tensor]:
    """Trunks without a decider, `equal` and `different`: counts per image, of the same total.

    Also returns a run that is the same work as `different`, image by image, and the (B, L) counts
    of `different`.
    """
    device = trunk.pos_embed.device
    counts = spread_counts(mean_counts, batch_size, num_tokens, spread=spread)
    alike = torch.tensor(mean_counts).repeat(batch_size, 1)
    equal, different = (
        FixedSchedule.of_counts(each, num_tokens).to(device) for each in (alike, counts)
    )
    alone = [
        run_stack(with_policy(trunk, different.of_image(image))) for image in range(batch_size)
    ]

    def run_alone(state: TokenState) -> None:
        for run, single in zip(alone, split_state(state), strict=True):
            run(single)

    trunks = {"equal": with_policy(trunk, equal), "different": with_policy(trunk, different)}
    return trunks, run_alone, counts


def count_stack(trunk: TokenTrunk, state: TokenState) -> tuple[TrunkMacs, PassRecord]:
    """Run the blocks once on `state` and count what ran."""
    done = run_stack(trunk)(state)
    record = PassRecord.of(done, trunk.read_map(done))
    return trunk_macs(trunk, record), record


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
