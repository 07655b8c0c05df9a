"""Forgetful: what is skipped is zero in the map."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from svit_det.policies.wrappers import Forgetful, Monotone
from svit_det.tokens import Selection
from svit_det.vit import Masked


@pytest.mark.parametrize("gated", [False, True], ids=["packed", "masked"])
def test_forgetful_zeroes_what_was_skipped(scripted, tiny_trunk, images, gated):
    keep = torch.rand(2, 15) < 0.5
    selection = Selection(keep=keep, gate=keep.float() if gated else None)
    batch = images(2)
    with torch.no_grad():
        forgot = tiny_trunk(Forgetful(scripted([selection])), depth=1)
        kept = tiny_trunk(scripted([selection]), depth=1)
        kept.load_state_dict(forgot.state_dict())
        forgotten, preserved = forgot(batch), kept(batch)
    assert not forgotten.patches[~keep].any()
    assert_close(forgotten.patches[keep], preserved.patches[keep])
    assert preserved.patches[~keep].any()


def test_forgetful_leaves_a_whole_block_alone(scripted, tiny_trunk, images):
    batch = images(2)
    forgot = tiny_trunk(Forgetful(scripted([None, None])), depth=2)
    dense = tiny_trunk(depth=2)
    dense.load_state_dict(forgot.state_dict())
    assert torch.equal(forgot(batch).patches, dense(batch).patches)


@pytest.mark.parametrize("name", ["SViT", "EViT", "ATS", "EvoViT"])
def test_a_dropped_token_keeps_its_last_value_or_is_zero(make_policy, tiny_trunk, images, name):
    """The default and `Forgetful`, side by side: what the map holds where block 11 skipped."""
    policy = make_policy(name)
    trunk, batch = tiny_trunk(policy, spread=0.3), images(2, (5, 7))
    states = {}
    with torch.no_grad():
        state = trunk.embed(batch)
        last = state.patches.clone()  # of each token, after the last block that it had a part in
        for layer in range(12):
            state = trunk.run(state, layer, layer + 1)
            took_part = state.history[-1].took_part
            last[took_part] = state.patches[took_part]
        states["kept"] = state
        trunk.policy = Forgetful(policy)
        states["zeroed"] = trunk(batch)
    skipped = ~states["kept"].history[-1].selection.keep
    assert skipped.any(dim=1).all()
    assert torch.equal(states["kept"].patches[skipped], last[skipped])
    assert states["kept"].patches[skipped].any(dim=-1).all()
    assert not states["zeroed"].patches[~states["zeroed"].history[-1].selection.keep].any()


def test_the_gradient_of_forgetting_is_that_of_gate_times_new(scripted, tiny_trunk, images):
    keep = torch.rand(2, 15) < 0.5
    gate = keep.float().requires_grad_()
    trunk = tiny_trunk(Forgetful(scripted([Selection(keep=keep, gate=gate)])), depth=1)
    batch, weights = images(2), torch.randn(2, 15, 24)
    (trunk(batch).patches * weights).sum().backward()

    # By hand: what the block computes for every token, whether it counts or not.
    block = trunk.blocks[0]
    with torch.no_grad():
        embedded = trunk.embed(batch)
        rows = Masked().enter(0, embedded, Selection(keep=keep, gate=keep.float()))
        tokens = rows.gather(embedded.tokens)
        attended = block.attn(
            *block.attn.project(block.norm1(tokens)).unbind(1),
            queries=rows.layout,
            keys=rows.layout,
        )
        tokens = tokens + attended
        new = (tokens + block.mlp(block.norm2(tokens))).unflatten(0, (2, 15))
        # d (gate * new) / d gate = new
        assert_close(gate.grad, (new * weights).sum(dim=-1), atol=1e-5, rtol=1e-5)


def test_forgetting_passes_no_gradient_to_the_old_value(scripted, a_state, a_view, a_record):
    keep = torch.tensor([[1, 0, 1, 0]]).bool()
    selection = Selection(keep=keep, gate=keep.float())
    entered = a_state()
    old = entered.tokens.requires_grad_()
    new = torch.randn(1, 4, 24)
    rows = Masked().enter(0, entered, selection)
    processed = replace(entered, tokens=rows.scatter(entered.tokens, new.flatten(0, 1)))
    after = Forgetful(scripted([])).after_block(a_view(), entered, processed, a_record(selection))
    assert torch.equal(after.patches.detach(), new * keep.unsqueeze(-1))
    after.patches.sum().backward()
    assert not old.grad.any()


def test_forgetful_says_that_it_does_not_preserve(ablated):
    assert ablated().preserves
    assert Monotone(ablated()).preserves
    assert not Forgetful(ablated()).preserves
    assert not Monotone(Forgetful(ablated())).preserves


def test_a_forgetful_model_in_half_precision_stays_in_it(ablated, tiny_trunk, images):
    trunk = tiny_trunk(Forgetful(ablated())).bfloat16().train()
    assert trunk(images(2).bfloat16()).patches.dtype == torch.bfloat16
