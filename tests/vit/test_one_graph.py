"""One graph: torch.export and torch.compile of whole backbones, under every fixed-count policy.

Toy sizes: four blocks of 24 channels, two pictures of 64 x 96 pixels, so 4 x 6 tokens. A policy has
a fixed count where every block of a pass promises its rows; the others export through `Padded`.
"""

import warnings

import pytest
import torch
from torch import nn

from svit_det.adapter import ViTAdapter, sampling
from svit_det.policies import POLICY_REGISTRY, TrunkShape, build_policy
from svit_det.vit import Execution, Padded, PlainViT, build_trunk

SHAPE = TrunkShape(24, 4, 3)
SETTINGS = {  # beside the defaults, what else has a fixed count
    "SViT quota": ("SViT", {"mode": "quota"}),
    "EvoViT representative": ("EvoViT", {"representative": True}),
}
CASES = [*POLICY_REGISTRY.names(), *SETTINGS]


def policy_of(case):
    name, settings = SETTINGS.get(case, (case, {}))
    config = POLICY_REGISTRY.get(name).Config
    if "layers" in config.described():
        settings = {"layers": (1, 2, 3), "keep_ratios": (0.7, 0.49, 0.343), **settings}
    return build_policy(name, shape=SHAPE, config=config(**settings))


class Maps(nn.Module):
    """A network without its record, which no graph can return."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return self.net(images)[0]


def network(case, kind, width=24, size=(64, 96)):
    torch.manual_seed(0)
    trunk = build_trunk(
        policy=policy_of(case),
        embed_dim=width,
        depth=SHAPE.depth,
        num_heads=SHAPE.num_heads,
        pretrain_grid=(3, 5),
    )
    if kind == "plain":
        net = PlainViT(trunk=trunk)
    else:
        net = ViTAdapter(trunk=trunk, interactions=[[0, 1], [2, 3]], num_heads=3, stem_width=8)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
        # A pass of training, so that thresholds divide the tokens as they do in a trained model.
        trunk.policy.track(net.train()(pictures()[0])[1])
    return net.eval()


def pictures():
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(2, 3, 64, 96, generator=generator) for _ in range(2)]


def is_fixed(net):
    with torch.no_grad():
        record = net(pictures()[0])[1]
    return all(block.selection.total is not None for block in record.blocks)


FIXED = [case for case in CASES if is_fixed(network(case, "plain"))]
VARYING = [case for case in CASES if case not in FIXED]


def under_both(cases):
    """Pairs of case and network; the larger network takes long, but for one policy of each kind."""
    long = {case: () if case in ("EViT", "SViT") else pytest.mark.long for case in cases}
    adapters = [pytest.param(case, "adapter", marks=long[case]) for case in cases]
    return [*((case, "plain") for case in cases), *adapters]


def largest_difference(one, two):
    assert one.keys() == two.keys()
    return max((one[name] - two[name]).abs().max().item() for name in one)


def exported(model):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter itself
        return torch.export.export(model, (pictures()[0],), strict=False).module()


def test_these_have_a_fixed_count():
    assert {"Dense", "AttentionProbe", "EViT", "EvoViT", "SViT quota"} <= set(FIXED)
    assert {"SViT", "ATS"} <= set(VARYING)


@pytest.mark.parametrize(("case", "kind"), under_both(FIXED))
@torch.no_grad()
def test_a_fixed_count_exports_exactly(case, kind, monkeypatch):
    """A graph samples by maps: exactly the network that does so too, and nearly the other."""
    model = Maps(network(case, kind))
    graph = exported(model)
    by_rows = [model(images) for images in pictures()]
    monkeypatch.setattr(sampling, "sample_rows", sampling.sample_maps)
    for images, other in zip(pictures(), by_rows, strict=True):
        assert largest_difference(graph(images), model(images)) == 0
        assert largest_difference(graph(images), other) <= 1e-5


@pytest.mark.parametrize(("case", "kind"), under_both(FIXED))
@torch.no_grad()
def test_a_fixed_count_is_one_graph_for_the_compiler(case, kind):
    """The compiler's front end alone, which is what can break a graph into several."""
    model = Maps(network(case, kind))
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for images in pictures():
        assert largest_difference(compiled(images), model(images)) <= 1e-5


@pytest.mark.parametrize(("case", "kind"), under_both(VARYING))
@torch.no_grad()
def test_a_count_that_varies_exports_in_a_fixed_room(case, kind):
    """Both pictures keep other numbers of tokens; the exported graph follows."""
    net = network(case, kind)
    packed = [net(images) for images in pictures()]
    counts = [record.counts() for _, record in packed]
    assert not torch.equal(*counts)
    net.trunk.execution = Execution(hard=Padded(1.0))
    graph = exported(Maps(net))
    for images, (maps, _) in zip(pictures(), packed):
        assert largest_difference(graph(images), maps) <= 1e-5


@pytest.mark.parametrize("case", VARYING)
@torch.no_grad()
def test_a_surplus_is_skipped_alike_in_the_exported_graph(case):
    """One row less has room than the policy keeps of either picture."""
    net, packed = network(case, "plain"), network(case, "plain")
    rows = [
        max(max(block.rows.mlp) for block in record.blocks if block.selection.total is None)
        for record in (packed(images)[1] for images in pictures())
    ]
    net.trunk.execution = Execution(hard=Padded(min(rows) - 1))
    graph = exported(Maps(net))
    for images in pictures():
        maps, _ = net(images)
        assert largest_difference(packed(images)[0], maps) > 1e-3
        assert largest_difference(graph(images), maps) == 0


@pytest.mark.parametrize("case", VARYING)
@torch.no_grad()
def test_a_count_that_varies_is_one_graph_in_a_fixed_room(case):
    net = network(case, "plain")
    packed = [net(images)[0] for images in pictures()]
    net.trunk.execution = Execution(hard=Padded(1.0))
    torch.compiler.reset()
    compiled = torch.compile(Maps(net), fullgraph=True, backend="eager")
    for images, maps in zip(pictures(), packed):
        assert largest_difference(compiled(images), maps) <= 1e-5


WRITTEN = [*((case, "plain") for case in FIXED), ("SViT quota", "adapter"), ("EViT", "adapter")]


@pytest.mark.long
@pytest.mark.parametrize(("case", "kind"), WRITTEN)
@torch.no_grad()
def test_the_compiler_writes_code_that_computes_the_same(case, kind):
    """With torch's own code generator, which needs a C++ compiler.

    It fuses and reorders sums, so that the difference is measured against the largest value: the
    adapter's maps reach 35 here, where a single rounding is 4e-6.
    """
    model = Maps(network(case, kind))
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model, fullgraph=True)
        results = [compiled(images) for images in pictures()]
    for images, maps in zip(pictures(), results):
        eager = model(images)
        largest = max(value.abs().max().item() for value in eager.values())
        assert largest_difference(maps, eager) <= 1e-5 * max(largest, 1)
