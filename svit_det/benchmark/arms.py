"""The arms of a comparison: the same weights under different policies, and the cost of each.

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
"""All blocks of a trunk, on embedded tokens."""


def trunk_of(model: nn.Module) -> TokenTrunk:
    """The trunk of the network in `model`; `model` itself where it is a trunk."""
    return model if isinstance(model, TokenTrunk) else find_token_net(model).trunk


def with_policy(model: Model, policy: TokenPolicy) -> Model:
    """A twin of `model` with another policy in its trunk; both share the same weight tensors."""
    tensors = chain(model.parameters(), model.buffers())
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    trunk_of(twin).policy = policy
    return twin.eval()


def without_class_token(model: Model) -> Model:
    """A twin of `model` that keeps every token and has no class token; both share the weights."""
    twin = with_policy(model, Dense())
    trunk_of(twin).register_parameter("cls_token", None)
    return twin


SPREAD, SIDE, IMAGES = 0.05, 16, 4
"""Numbers of `settle`: the spread of the weights; tokens per side and number of noise images."""


@torch.no_grad()
def settle(trunk: TokenTrunk) -> None:
    """Make fresh weights of a policy divide tokens about as trained weights do.

    Fresh decisions may be the same for all tokens, and thresholds have tracked nothing yet. The
    policy's weights are therefore spread a little, and the policy tracks one training pass on
    noise.
    """
    for parameter in trunk.policy.parameters():
        parameter.add_(SPREAD * torch.randn_like(parameter))
    weight, side = trunk.patch_embed.proj.weight, SIDE * trunk.patch_size
    state = trunk.train()(weight.new_empty(IMAGES, weight.shape[1], side, side).normal_())
    trunk.policy.track(PassRecord.of(state, trunk.read_map(state)))
    trunk.eval()


def policy_arms(model: Model) -> dict[str, Model]:
    """`dense`; `pruned`, the model under its own policy; `keep_all`, that policy at a budget of 1.

    If the model has a class token, `dense` has it too. `keep_all` is missing for a policy without a
    budget, and for a policy that skips a token even at a budget of 1.
    """
    policy = trunk_of(model).policy
    arms = {"dense": with_policy(model, Dense()), "pruned": model.eval()}
    everyone = at_full_budget(policy)
    return arms if everyone is None else {"keep_all": with_policy(model, everyone), **arms}


def at_full_budget(policy: TokenPolicy) -> TokenPolicy | None:
    """A twin of the policy with a budget of 1; None where the policy cannot keep every token."""
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
    """A run that splits a batch and runs each image as a batch of one."""

    def run_each(batch: Any) -> None:
        for single in split(batch):
            run(single)

    return run_each


def schedule_arms(
    trunk: TokenTrunk, mean_counts: Sequence[int], batch_size: int, num_tokens: int, spread: float
) -> tuple[dict[str, TokenTrunk], Callable[[TokenState], None], Tensor]:
    """Trunks with fixed counts: `equal` for all images, or `different`, with the same total.

    Also returns a run with the work of `different`, image by image, and the (B, L) counts of
    `different`.
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
    """Run the blocks once on `state` and count their multiply-adds."""
    done = run_stack(trunk)(state)
    record = PassRecord.of(done, trunk.read_map(done))
    return trunk_macs(trunk, record), record


def count_host_syncs(run: Callable[[], Any], device: torch.device | str) -> int | None:
    """The number of times that `run` makes the host wait for the GPU; None without a GPU."""
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
