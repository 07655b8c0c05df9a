"""TokenTrunk and PlainViT: DeiT's numbers under the dense policy, any size, any range of blocks."""

import pytest
import timm
import torch
from torch.nn import LayerNorm
from torch.testing import assert_close

from svit_det.errors import InputError
from svit_det.policies import TrunkShape
from svit_det.policies.dense import Dense
from svit_det.vit import PlainViT, TokenTrunk, build_trunk
from svit_det.vit.position import sincos_pos_embed

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def deit():
    """timm's DeiT-T with weights all of which matter, in eval mode, before its final norm."""
    torch.manual_seed(1)
    model = timm.create_model("deit_tiny_patch16_224", pretrained=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.norm = torch.nn.Identity()
    return model


def fits_the_trunk(name):
    return not name.startswith(("norm.", "head."))


def test_under_everyone_the_trunk_is_timms_deit(deit, class_everyone):
    trunk = build_trunk(policy=class_everyone()).eval()
    trunk.load_state_dict({n: v for n, v in deit.state_dict().items() if fits_the_trunk(n)})
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        theirs = deit.forward_features(images)
        ours = trunk(images)
    assert theirs.shape == (2, 197, 192)
    assert_close(ours.tokens, theirs, **TOLERANCE)


def test_without_a_class_token_only_that_token_is_missing(deit):
    trunk = build_trunk(policy=Dense())
    weights = {n: v for n, v in deit.state_dict().items() if fits_the_trunk(n)}
    assert set(weights) - set(trunk.state_dict()) == {"cls_token"}
    assert set(trunk.state_dict()) <= set(weights)


@pytest.mark.parametrize("grid", [(14, 14), (1, 1), (1, 9), (6, 1), (3, 5)])
@pytest.mark.parametrize("batch", [1, 3])
def test_any_grid_and_batch(tiny_trunk, images, class_everyone, grid, batch):
    for policy, num_extra in ((None, 0), (class_everyone(), 1)):
        state = tiny_trunk(policy, depth=2)(images(batch, grid))
        assert state.grid.shape == grid
        assert state.class_token is bool(num_extra)
        assert state.patches.shape == (batch, grid[0] * grid[1], 24)
        assert state.extra.shape == (batch, num_extra, 24)
        assert state.patches.isfinite().all()


@pytest.mark.parametrize(
    "shape",
    [
        {"depth": 1},
        {"depth": 5, "num_heads": 1},
        {"depth": 2, "num_heads": 5, "embed_dim": 30},
        {"depth": 2, "num_heads": 8},
        {"depth": 2, "patch_size": 7},
        {"depth": 2, "embed_dim": 18, "num_heads": 9},
    ],
    ids=str,
)
def test_any_depth_heads_and_patch(tiny_trunk, images, shape):
    trunk = tiny_trunk(**shape)
    both = images(2, (2, 3), patch=shape.get("patch_size", 4))
    with torch.no_grad():
        together = trunk(both)
        alone = torch.cat([trunk(both[image : image + 1]).patches for image in range(2)])
    assert len(together.history) == shape["depth"]
    assert together.patches.shape == (2, 6, shape.get("embed_dim", 24))
    assert_close(together.patches, alone, **TOLERANCE)


def test_images_of_other_channels(tiny_trunk):
    trunk = tiny_trunk(depth=1, in_channels=1)
    assert trunk(torch.randn(1, 1, 8, 8)).grid.shape == (2, 2)


def test_embed_adds_each_tokens_own_position(tiny_trunk, class_everyone):
    trunk = tiny_trunk(class_everyone(), depth=1, pretrain_grid=(2, 3))
    blank = trunk.embed(torch.zeros(1, 3, 8, 12))
    bias = trunk.patch_embed.proj.bias
    assert_close(blank.patches, bias + trunk.pos_embed[:, 1:])
    assert_close(blank.extra, trunk.cls_token + trunk.pos_embed[:, :1])


def test_a_token_is_at_its_place_in_the_map(tiny_trunk):
    # Embedding only, no blocks: a mark in row 1, column 2 of a 2 x 3 grid is token 5.
    trunk = tiny_trunk(depth=1, pretrain_grid=(2, 3))
    image = torch.zeros(1, 3, 8, 12)
    image[:, :, 4:8, 8:12] = 1
    changed = trunk.embed(image).patches != trunk.embed(torch.zeros_like(image)).patches
    assert changed.any(dim=-1).tolist() == [[False, False, False, False, False, True]]


def test_the_patch_size_is_that_of_the_embedding(tiny_trunk):
    assert tiny_trunk(depth=1, patch_size=6).patch_size == 6


def test_the_sizes_that_a_policy_is_built_from(tiny_trunk):
    shape = tiny_trunk(depth=5, embed_dim=30, num_heads=5).shape
    assert shape == TrunkShape(embed_dim=30, depth=5, num_heads=5)


@pytest.mark.parametrize("size", [(10, 8), (8, 10)])
def test_an_image_that_needs_padding(tiny_trunk, size):
    with pytest.raises(InputError, match=f"{size[0]} x {size[1]} .* multiple"):
        tiny_trunk(depth=1)(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"pos_embed_init": "zeros"}, "pos_embed_init"),
        ({"num_heads": 7}, "num_heads"),
        ({"num_heads": 0}, "num_heads"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"drop_path_rate": -0.1}, "drop_path_rate"),
        ({"patch_size": 0}, "patch_size"),
        ({"embed_dim": 0}, "embed_dim"),
        ({"mlp_ratio": 0.001}, "mlp_ratio"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_named(tiny_trunk, options, argument):
    with pytest.raises(InputError, match=f"^{argument}: ") as refusal:
        tiny_trunk(depth=2, **options)
    assert refusal.value.setting == argument


def test_a_trunk_without_blocks_is_named(tiny_trunk):
    with pytest.raises(InputError, match=r"^depth: 0"):
        tiny_trunk(depth=0)


# ------------------------------------------------------------------ the class token


def test_a_trunk_has_the_class_token_that_its_policy_needs(tiny_trunk, class_everyone):
    assert tiny_trunk(class_everyone(), depth=1).cls_token is not None
    assert tiny_trunk(depth=1).cls_token is None


def test_a_class_token_under_a_policy_that_does_not_need_one(tiny_trunk, images, class_everyone):
    own = tiny_trunk(depth=2, class_token=True)
    needed = tiny_trunk(class_everyone(), depth=2)
    needed.load_state_dict(own.state_dict())
    batch = images()
    state = own(batch)
    assert state.class_token and state.extra.shape == (2, 1, 24)
    assert torch.equal(state.tokens, needed(batch).tokens)


def test_a_policy_that_needs_a_class_token_is_not_run_without(tiny_trunk, class_everyone):
    with pytest.raises(InputError, match=r"^class_token: ClassEveryone .* give the trunk one"):
        tiny_trunk(class_everyone(), depth=1, class_token=False)


def test_parts_may_be_passed_in_built(tiny_trunk, images):
    """build_trunk adds sizes to TokenTrunk, nothing else."""
    ready = tiny_trunk(depth=2)
    trunk = TokenTrunk(
        policy=Dense(), patch_embed=ready.patch_embed, blocks=ready.blocks, pretrain_grid=(3, 5)
    ).eval()
    trunk.load_state_dict(ready.state_dict())
    batch = images()
    assert torch.equal(trunk(batch).tokens, ready(batch).tokens)


# ------------------------------------------------------------------ how it begins


def test_stochastic_depth_grows_block_by_block():
    trunk = build_trunk(policy=Dense(), embed_dim=12, depth=5, drop_path_rate=0.2)
    rates = [block.drop_path.rate for block in trunk.blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert build_trunk(policy=Dense(), embed_dim=12, depth=1).blocks[0].drop_path.rate == 0


def test_positions_start_small_or_as_sines():
    grid = (3, 4)
    small = build_trunk(policy=Dense(), embed_dim=12, depth=1, pretrain_grid=grid)
    assert 0.01 < small.pos_embed.std() < 0.03
    sines = build_trunk(
        policy=Dense(), embed_dim=12, depth=1, pretrain_grid=grid, pos_embed_init="sincos"
    )
    assert torch.equal(sines.pos_embed[:, 1:], sincos_pos_embed(grid, 12))


def test_run_runs_the_blocks_it_is_told_to(tiny_trunk, images):
    trunk = tiny_trunk(depth=4)
    ran = []
    for layer, block in enumerate(trunk.blocks):
        block.mlp.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
    state = trunk.embed(images(1))
    assert len(trunk.run(state, 1, 3).history) == 2
    assert ran == [1, 2]
    assert trunk.run(state, 2, 2) is state


def test_the_plain_vit_returns_one_map_and_the_record(tiny_trunk, images, class_everyone):
    trunk = tiny_trunk(class_everyone(), depth=2)
    net = PlainViT(trunk=trunk)
    batch = images(2, (3, 5))
    maps, record = net(batch)
    tokens = trunk(batch).patches
    assert list(maps) == ["last_feat"]
    assert maps["last_feat"].shape == (2, 24, 3, 5)
    assert maps["last_feat"].is_contiguous()
    assert torch.equal(maps["last_feat"][1, :, 2, 4], tokens[1, 14])
    assert torch.equal(maps["last_feat"][0, :, 1, 0], tokens[0, 5])
    assert (len(record.blocks), record.grid.shape) == (2, (3, 5))
    assert [block.rows for block in record.blocks] == [((16, 16),) * 3] * 2  # one is no patch
    assert torch.equal(record.tokens, tokens)
    assert (net.strides, net.channels) == ({"last_feat": 4}, {"last_feat": 24})
    assert net.size_divisibility == 4


@pytest.mark.parametrize("eps", [1e-6, 1e-5])
def test_layer_norm_eps_reaches_every_norm_of_the_blocks(tiny_trunk, eps):
    norms = [m for m in tiny_trunk(layer_norm_eps=eps).blocks.modules() if isinstance(m, LayerNorm)]
    assert len(norms) == 24
    assert {norm.eps for norm in norms} == {eps}
    default = [m for m in tiny_trunk().blocks.modules() if isinstance(m, LayerNorm)]
    assert {norm.eps for norm in default} == {1e-6}
