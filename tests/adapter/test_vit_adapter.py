"""The adapter around a trunk: geometry, stages, and what it starts from."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from svit_det.adapter import ViTAdapter
from svit_det.adapter.deform_attn import DeformableAttention
from svit_det.adapter.interaction import Extractor, Geometry
from svit_det.adapter.output_maps import resize_map
from svit_det.adapter.vit_adapter import stages_of
from svit_det.errors import InputError
from svit_det.policies import TokenPolicy
from svit_det.policies.dense import Dense

PAIRS = [[0, 2], [3, 5], [6, 8], [9, 11]]


# ------------------------------------------------------------------ maps


@pytest.mark.parametrize("patch", [4, 8, 16])
@pytest.mark.parametrize("grid", [(4, 6), (3, 5), (1, 1), (5, 2)])
def test_four_maps_at_their_strides_on_odd_grids_too(adapter, images, patch, grid):
    net = adapter(trunk={"patch_size": patch})
    maps, record = net(images(2, grid, patch))
    height, width = grid
    sizes = [(4 * height, 4 * width), (2 * height, 2 * width), grid]
    sizes.append((-(-height // 2), -(-width // 2)))
    assert [tuple(each.shape) for each in maps.values()] == [(2, 24, *size) for size in sizes]
    assert list(net.strides.values()) == [patch // 4, patch // 2, patch, 2 * patch]
    assert list(maps) == list(net.strides) == list(net.channels)
    assert record.keep_maps().shape == (2, 12, *grid)
    assert net.size_divisibility == 2 * patch


def test_names_are_those_of_the_strides(adapter):
    named = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
    assert adapter(trunk={"patch_size": 16}).strides == named
    assert adapter(finest_map=False).strides == {"res2": 4, "res3": 8, "res4": 16}


def test_without_the_finest_map_the_others_are_the_same(adapter, images):
    whole = adapter()
    coarse = adapter(finest_map=False)
    state = whole.state_dict()
    renamed = {
        name.replace("norms.1", "norms.0")
        .replace("norms.2", "norms.1")
        .replace("norms.3", "norms.2"): value
        for name, value in state.items()
        if not name.startswith(("norms.0", "up.", "spatial_prior.fc1"))
    }
    coarse.load_state_dict(renamed)
    batch = images(1, (4, 6), 8)
    expected, _ = whole(batch)
    found, _ = coarse(batch)
    assert list(found) == ["res2", "res3", "res4"]
    for name, each in found.items():
        assert torch.equal(each, expected[name])


def test_a_shift_by_whole_cells_shifts_the_maps(tiny_trunk):
    """Reference points, level splits and row order all agree: what is at a place stays there."""
    trunk = tiny_trunk(depth=2, patch_size=8, pretrain_grid=(48, 48))
    with torch.no_grad():
        trunk.pos_embed.copy_(trunk.pos_embed[:, :1].expand_as(trunk.pos_embed))
        for block in trunk.blocks:  # only what is local: attention sees everything
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.zero_()
                layer.bias.zero_()
    net = ViTAdapter(
        trunk=trunk, interactions=[[0, 1]], num_heads=3, num_points=1, stem_width=4
    ).eval()
    with torch.no_grad():
        net.injectors[0].gamma.fill_(0.5)
    picture = torch.zeros(1, 3, 384, 384)
    spot = torch.randn(1, 3, 16, 16)
    here, there = picture.clone(), picture.clone()
    here[..., 192:208, 176:192] = spot
    there[..., 192:208, 192:208] = spot
    with torch.no_grad():
        first, second = net(here)[0], net(there)[0]
    for name, stride in net.strides.items():
        shift = 16 // stride
        middle = slice(160 // stride, 240 // stride)
        assert not torch.equal(first[name], second[name])
        moved = first[name].roll(shift, dims=3)[..., middle, middle]
        assert_close(second[name][..., middle, middle], moved, atol=1e-5, rtol=1e-5)


def test_resizing_by_hand():
    """Halving is the mean of four, of two at an odd border; bilinear does that to even maps."""
    feature_map = torch.tensor([[1.0, 3.0, 8.0], [5.0, 7.0, 2.0], [0.0, 4.0, 6.0]])[None, None]
    assert resize_map(feature_map, 2)[0, 0].tolist() == [[4.0, 5.0], [2.0, 6.0]]
    even = torch.randn(2, 3, 4, 6)
    bilinear = nn.functional.interpolate(even, scale_factor=0.5, mode="bilinear")
    assert_close(resize_map(even, 2), bilinear)
    assert resize_map(even, 1) is even
    assert resize_map(even, 0.25).shape == (2, 3, 16, 24)


def test_geometry_of_an_odd_grid():
    geometry = Geometry.of((3, 5), [(6, 10), (3, 5), (2, 3)], torch.device("cpu"))
    assert geometry.sizes == [60, 15, 6]
    assert geometry.to_levels.shape == (15, 3, 2) and geometry.to_trunk.shape == (81, 1, 2)
    # The last cell of the coarsest level has its centre at 5 x 3 patches: the trunk's lower corner.
    assert geometry.to_trunk[-1, 0].tolist() == pytest.approx([5 / 5, 3 / 3])


# ------------------------------------------------------------------ stages


class UpsideDown(TokenPolicy):
    """Shows the rest of the network its tokens in reverse order."""

    def read_map(self, state):
        return state.patches.flip(1)

    def write_map(self, state, patches):
        return state.with_patches(patches.flip(1))


def by_hand(net, images, order):
    """The side branch's sums, written down once more: what the network should be.

    `order` turns the trunk's tokens into the map that is shown, and back.
    """
    state = net.trunk.embed(images)
    stem, levels = net.spatial_prior(images)
    geometry = Geometry.of(state.grid.shape, [tuple(m.shape[2:]) for m in levels], images.device)
    tokens = [level.flatten(2).transpose(1, 2) for level in levels]
    prior = torch.cat([t + net.level_embed[i] for i, t in enumerate(tokens)], dim=1)
    for index, (first, last) in enumerate([(0, 2), (3, 5), (6, 8), (9, 11)]):
        injected = net.injectors[index](order(state.patches), prior, geometry)
        state = net.trunk.run(state.with_patches(order(injected)), first, last + 1)
        prior = net.extractors[index](prior, order(state.patches), geometry)
    for extra in net.extractors[4:]:
        prior = extra(prior, order(state.patches), geometry)
    return net.spatial_prior.fc1(stem), prior, order(state.patches), geometry


@pytest.mark.parametrize(
    ("policy", "order"),
    [(Dense(), lambda patches: patches), (UpsideDown(), lambda patches: patches.flip(1))],
    ids=["as they are", "as the policy shows them"],
)
def test_reads_as_the_figure(adapter, images, policy, order):
    net = adapter(policy)
    batch = images(1, (4, 6), 8)
    finest, prior, patches, geometry = by_hand(net, batch, order)
    maps, record = net(batch)
    assert_close(record.tokens, patches)
    sizes = geometry.sizes
    c2, c3, c4 = (
        part.transpose(1, 2).unflatten(2, grid)
        for part, grid in zip(prior.split(sizes, dim=1), geometry.levels)
    )
    trunk_map = patches.transpose(1, 2).unflatten(2, (4, 6))
    for norm, own, stride, found in zip(
        net.norms, (finest + net.up(c2), c2, c3, c4), (0.25, 0.5, 1, 2), maps.values()
    ):
        resized = nn.functional.interpolate(trunk_map, scale_factor=1 / stride, mode="bilinear")
        assert_close(found, norm(own + resized), atol=1e-5, rtol=1e-5)


def test_a_fresh_adapter_leaves_the_trunk_alone(tiny_trunk, images, policy):
    """`gamma` starts at 0: whatever ranges the blocks are run in, they are the trunk's own."""
    trunk = tiny_trunk(policy, patch_size=8)
    batch = images(2, (4, 6), 8)
    alone = trunk(batch)
    for interactions in (PAIRS, [[0, 0], [1, 11]], [[0, 11]]):
        net = ViTAdapter(trunk=trunk, interactions=interactions, num_heads=3, stem_width=4).eval()
        _, record = net(batch)
        for ours, theirs in zip(record.blocks, alone.history, strict=True):
            assert torch.equal(ours.selection.keep, theirs.selection.keep)
            assert ours.rows == theirs.rows


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_any_depth(adapter, images, depth):
    middle = depth // 2
    pairs = [[0, middle], [middle + 1, depth - 1]] if depth > 1 else [[0, 0]]
    net = adapter(interactions=pairs, trunk={"depth": depth, "patch_size": 8})
    _, record = net(images(1, (2, 4), 8))
    assert len(record.blocks) == depth
    assert len(net.injectors) == len(pairs) and len(net.extractors) == len(pairs) + 2


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([[0, 2], [2, 11]], "overlaps"),
        ([[0, 2], [4, 11]], "leaves a gap: block 3"),
        ([[1, 11]], "leaves a gap: block 0"),
        ([[0, 12]], "exceeds the trunk, whose 12 blocks"),
        ([[0, 5]], "blocks 6 to 11 are in no interaction"),
        ([], "blocks 0 to 11"),
        ([[0, 5], [9, 6]], "ends before it begins"),
        ([[0, 1, 2], [3, 11]], "not a pair"),
        ([[0, 5.5], [6, 11]], "not a pair"),
    ],
)
def test_wrong_interactions(pairs, said):
    with pytest.raises(InputError, match=r"^interactions: ") as refusal:
        stages_of(pairs, 12)
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trunk": {"patch_size": 2}}, "patch_size"),
        ({"ffn_ratio": 0.01}, "ffn_ratio"),
        ({"num_extra_extractors": -1}, "num_extra_extractors"),
    ],
)
def test_wrong_values(adapter, options, said):
    with pytest.raises(InputError, match=f"^{said}: "):
        adapter(**options)


def test_wrong_stem(tiny_trunk):
    with pytest.raises(InputError, match=r"^stem_width: 0"):
        ViTAdapter(trunk=tiny_trunk(patch_size=8), num_heads=3, stem_width=0)


def test_class_and_other_extra_tokens_stay_off_the_maps(adapter, images, class_everyone):
    """A class token takes part in the blocks and in nothing else: injectors see patches alone."""
    net = adapter(class_everyone())
    seen = []
    for module in (*net.injectors, *net.extractors):
        module.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape[1]))
    _, record = net(images(1, (4, 6), 8))
    assert {block.rows.keys for block in record.blocks} == {(25,)}  # 24 patches and the class
    assert set(seen) == {24, 96 + 24 + 6}


def test_dropped_paths_are_those_of_the_convffn():
    """At a rate of nearly 1 an extractor in training is its attention alone."""
    extractor = Extractor(24, num_heads=3, num_points=2, ffn_ratio=0.5, drop_path_rate=0.999999)
    geometry = Geometry.of((2, 3), [(4, 6), (2, 3), (1, 2)], torch.device("cpu"))
    prior, patches = torch.randn(2, 32, 24), torch.randn(2, 6, 24)
    looked = extractor.attn(
        extractor.query_norm(prior), geometry.to_trunk, extractor.feat_norm(patches), [(2, 3)]
    )
    assert_close(extractor.train()(prior, patches, geometry), prior + looked)
    assert not torch.allclose(extractor.eval()(prior, patches, geometry), prior + looked)


@torch.no_grad()
def test_the_start(tiny_trunk):
    """Initialisation by the recipe: normal convolutions by fan-out, .02 for linear, looks ahead."""
    trunk = tiny_trunk(embed_dim=96, num_heads=3, patch_size=8)
    net = ViTAdapter(trunk=trunk, num_heads=6, stem_width=32)
    for module in net.modules():
        if isinstance(module, DeformableAttention):
            pattern = DeformableAttention(
                96, num_heads=6, num_points=4, num_levels=module.shape[1]
            ).sampling_offsets.bias
            assert torch.equal(module.sampling_offsets.bias, pattern)
            assert not module.sampling_offsets.weight.any()
            bound = (6 / (96 + 96)) ** 0.5  # Xavier's
            assert 0.9 * bound < module.value_proj.weight.abs().max() <= bound
    for extractor in net.extractors:
        assert extractor.ffn.fc1.weight.std() == pytest.approx(0.02, rel=0.1)
        assert not extractor.ffn.fc1.bias.any()
    conv = net.spatial_prior.conv3[0]  # 3 x 3, to 128 channels
    assert conv.weight.std() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.05)
    assert net.up.weight.std() == pytest.approx((2 / (4 * 96)) ** 0.5, rel=0.05)
    assert not net.up.bias.any()
    assert net.level_embed.std() == pytest.approx(1, abs=0.15)
    assert not any(injector.gamma.any() for injector in net.injectors)


def test_drop_path_is_the_side_branchs_own_full_rate(adapter):
    net = adapter(drop_path_rate=0.3, trunk={"drop_path_rate": 0.1, "patch_size": 8})
    assert {extractor.drop_path.p for extractor in net.extractors} == {0.3}


def test_the_norm_is_the_callers(adapter):
    net = adapter(norm=lambda channels: nn.GroupNorm(2, channels))
    kinds = {type(m) for m in net.modules() if "Norm" in type(m).__name__}
    assert kinds == {nn.GroupNorm, nn.LayerNorm}


def test_a_network_in_half_precision_runs_in_it(adapter, images):
    """Sampling sums in float32; what comes out is in the weights' dtype again."""
    net, batch = adapter(), images(1, (4, 6), 8)
    with torch.no_grad():
        full, _ = net(batch)
        half, _ = net.bfloat16()(batch.bfloat16())
    for name, feature_map in half.items():
        assert feature_map.dtype == torch.bfloat16
        assert (feature_map.float() - full[name]).norm() < 0.05 * full[name].norm()
