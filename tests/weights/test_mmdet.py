"""Parity with the original implementation: its weights through our tables give its maps.

The reference outputs are those of the released ViT-Adapter and SViT backbones; tests/fixtures holds
them, and the rule that their weights and image follow.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from svit_det.adapter import ViTAdapter
from svit_det.errors import InputError
from svit_det.policies import TrunkShape, build_policy
from svit_det.policies.evo_vit import EvoViT
from svit_det.policies.svit import SViT
from svit_det.vit import build_trunk
from svit_det.weights.mmdet import (
    evo_vit_table,
    from_mmdet,
    join_qkv,
    svit_table,
    vit_adapter_table,
)

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
GATED = tuple(range(3, 12))
SIZE = {"num_interactions": 4, "num_extra": 2}
TABLES = {
    "vit_adapter_t": vit_adapter_table(**SIZE),
    "svit_adapter_t": svit_table(**SIZE, layers=GATED),
    "evo_vit_adapter_t": evo_vit_table(**SIZE),
}


def value_rule():
    spec = importlib.util.spec_from_file_location("fixture_values", FIXTURES / "values.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


VALUES = value_rule()


def shapes_of(name):
    return json.loads((FIXTURES / f"{name}.keys.json").read_text())


@pytest.fixture(scope="module")
def original():
    """Factory: the state dict that a fixture was computed with."""

    def make(name):
        return {
            key: torch.from_numpy(np.asarray(VALUES.value(key, tuple(shape))))
            for key, shape in dict(shapes_of(name)).items()
        }

    return make


def build(name, *, embed_dim=192, num_heads=3):
    """Our network for a fixture: the sparse original's blocks and gates normalise with 1e-5."""
    sparse = name.startswith("svit")
    kind, config = "Dense", None
    if sparse:
        ratios = (0.7,) * 3 + (0.49,) * 3 + (0.343,) * 3
        kind, config = "SViT", SViT.Config(layers=GATED, keep_ratios=ratios, mode="argmax")
    if name.startswith("evo"):
        kind, config = "EvoViT", EvoViT.Config()
    trunk = build_trunk(
        policy=build_policy(kind, shape=TrunkShape(embed_dim, 12, num_heads), config=config),
        embed_dim=embed_dim,
        num_heads=num_heads,
        layer_norm_eps=1e-5 if sparse else 1e-6,
    )
    return ViTAdapter(trunk=trunk).eval()


def load(net, weights):
    """Strictly, but for what only we have: the statistics behind the thresholds."""
    result = net.load_state_dict(weights, strict=False)
    assert result.unexpected_keys == []
    assert all(".policy.budget." in name for name in result.missing_keys)


@pytest.mark.parametrize("name", list(TABLES))
def test_same_weights_same_image_same_maps(name, original):
    net = build(name)
    load(net, from_mmdet(original(name), TABLES[name], source=name))
    image = torch.from_numpy(VALUES.image("input-t", (1, 3, 64, 96)))
    with torch.no_grad():
        maps, record = net(image)
    reference = np.load(FIXTURES / f"{name}.npz")
    for level, each in maps.items():
        assert np.abs(each.numpy() - reference[level]).max() < 1e-4, level
    if "keep" in reference:
        keep = record.keep_maps()[0].flatten(1).numpy()
        assert np.array_equal(keep, reference["keep"])
        assert 0.2 < keep[3:].mean() < 0.8  # decisions worth comparing


@pytest.mark.parametrize("name", list(TABLES))
def test_the_tables_are_one_to_one(name):
    """Every original weight has one of ours, of the same shape, and none of ours is left over."""
    given = {key: torch.empty(shape) for key, shape in dict(shapes_of(name)).items()}
    renamed = from_mmdet(given, TABLES[name], source=name)
    ours = build(name).state_dict()
    shapes = {key: tuple(value.shape) for key, value in ours.items() if ".budget." not in key}
    assert {key: tuple(value.shape) for key, value in renamed.items()} == shapes


@pytest.mark.parametrize(
    ("width", "heads", "total", "gates"),
    [(192, 3, 8_049_746, 87_714), (384, 6, 27_835_970, 341_298)],
    ids=["T", "S"],
)
def test_sizes_are_those_of_the_original(width, heads, total, gates):
    net = build("svit_adapter", embed_dim=width, num_heads=heads)
    assert sum(parameter.numel() for parameter in net.parameters()) == total
    policy = net.trunk.policy
    assert sum(parameter.numel() for parameter in policy.gates.parameters()) == gates
    own = [name for name in net.state_dict() if ".budget." not in name]
    assert len(own) == 440
    # Shapes that depend on heads, points and levels.
    shape = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert shape["injectors.0.attn.sampling_offsets.weight"] == (144, width)
    assert shape["injectors.3.attn.attention_weights.bias"] == (72,)
    assert shape["extractors.5.attn.sampling_offsets.weight"] == (48, width)
    assert shape["extractors.0.ffn.dwconv.weight"] == (width // 4, 1, 3, 3)
    assert shape["trunk.pos_embed"] == (1, 197, width)
    assert shape["spatial_prior.fc4.weight"] == (width, 256, 1, 1)
    assert shape["up.weight"] == (width, width, 2, 2)


def test_a_whole_detector_gives_its_backbone(original):
    bare = original("vit_adapter_t")
    detector = {f"backbone.{name}": value for name, value in bare.items()}
    detector |= {"neck.lateral_convs.0.conv.weight": torch.zeros(1), "rpn_head.x": torch.zeros(1)}
    renamed = from_mmdet(detector, TABLES["vit_adapter_t"], source="detector")
    assert renamed.keys() == from_mmdet(bare, TABLES["vit_adapter_t"], source="bare").keys()


def test_queries_and_keys_need_their_values():
    """Evo-ViT's rows are joined, queries and keys above values; half of them is no block."""
    given = {"qks.0.qk.bias": torch.arange(4.0), "vs.0.v.bias": torch.arange(4.0, 6.0), "x": None}
    joined = join_qkv(given, source="evo.pth")
    assert joined.keys() == {"qkvs.0.bias", "x"}
    assert joined["qkvs.0.bias"].tolist() == [0, 1, 2, 3, 4, 5]
    for name in ("qks.0.qk.bias", "vs.0.v.bias"):
        half = {key: value for key, value in given.items() if key != name}
        with pytest.raises(InputError, match=rf"evo\.pth: .* without {name}"):
            join_qkv(half, source="evo.pth")


def test_the_wrong_kind_is_refused(original):
    with pytest.raises(InputError, match=r"some\.pth: blocks\.0\.norm1\.weight and \d+ more"):
        from_mmdet(original("vit_adapter_t"), TABLES["svit_adapter_t"], source="some.pth")
    more_gates = svit_table(**SIZE, layers=[3, 6, 9])
    with pytest.raises(InputError, match=r"selective_modules\.3"):
        from_mmdet(original("svit_adapter_t"), more_gates, source="some.pth")
