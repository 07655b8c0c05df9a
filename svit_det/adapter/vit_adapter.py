"""ViTAdapter: a trunk with a convolutional side branch and four output maps.

Source: ViT-Adapter (Chen et al. 2023) with global attention in all blocks, as in SViT (Liu et al.
2024), supplementary and released code. The adapter holds a trunk and asks the trunk to run ranges
of blocks; it knows nothing of what happens inside a block.

B images, H x W token grid, N = H * W, C channels, p pixels per patch and side.

Departures from the paper's code:

- Sides need not be multiples of 2 p: the grids of all levels and their relative places are exact.
- For small images, patches may have 8 or 4 pixels, and the finest map may be left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from svit_det.adapter.deform_attn import DeformableAttention
from svit_det.adapter.interaction import NUM_LEVELS, Extractor, Geometry, Injector
from svit_det.adapter.output_maps import add_and_norm, finest_map, level_maps, to_map
from svit_det.adapter.spatial_prior import SpatialPrior
from svit_det.errors import InputError
from svit_det.tokens import PassRecord
from svit_det.vit import TokenNet, TokenTrunk


class ViTAdapter(TokenNet):
    """Spatial prior, then (inject, run blocks, extract) for each of `interactions`, then four maps.

    `interactions` are pairs [first, last] of blocks, both included, that cover the trunk in order.
    `norm` makes the batch norm for a number of channels. `drop_path_rate` is the side branch's own,
    the same in every extractor. `finest_map` False leaves out the map at stride p / 4.
    """

    def __init__(
        self,
        *,
        trunk: TokenTrunk,
        interactions: Sequence[Sequence[int]] = ((0, 2), (3, 5), (6, 8), (9, 11)),
        num_heads: int = 6,
        num_points: int = 4,
        ffn_ratio: float = 0.25,
        stem_width: int = 64,
        num_extra_extractors: int = 2,
        drop_path_rate: float = 0.0,
        finest_map: bool = True,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__(trunk=trunk)
        self.stages = stages_of(interactions, trunk.depth)
        if int(trunk.embed_dim * ffn_ratio) < 1:
            raise InputError(
                f"{ffn_ratio} of {trunk.embed_dim} channels is none.", setting="ffn_ratio"
            )
        if num_extra_extractors < 0:
            raise InputError(f"{num_extra_extractors} is below 0.", setting="num_extra_extractors")
        width = trunk.embed_dim
        self.spatial_prior = SpatialPrior(
            patch_size=trunk.patch_size,
            in_channels=trunk.patch_embed.proj.in_channels,
            embed_dim=width,
            width=stem_width,
            norm=norm,
            finest_map=finest_map,
        )
        self.level_embed = nn.Parameter(torch.zeros(NUM_LEVELS, width))
        looks = {"num_heads": num_heads, "num_points": num_points}
        self.injectors = nn.ModuleList(Injector(width, **looks) for _ in self.stages)
        self.extractors = nn.ModuleList(
            Extractor(width, ffn_ratio=ffn_ratio, drop_path_rate=drop_path_rate, **looks)
            for _ in range(len(self.stages) + num_extra_extractors)
        )
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2) if finest_map else None
        self.norms = nn.ModuleList(norm(width) for _ in self.strides)
        self._init_weights()

    def _init_weights(self) -> None:
        nn.init.normal_(self.level_embed)
        ours = (self.spatial_prior, self.extractors, self.up)
        for module in (m for part in ours if part is not None for m in part.modules()):
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()

    @property
    def strides(self) -> dict[str, int]:
        """Pixels per cell of each output map; `res2` is the map at stride 4, and so on."""
        patch = self.trunk.patch_size
        strides = [patch // 4, patch // 2, patch, 2 * patch]
        if self.up is None:
            del strides[0]
        return {f"res{int(math.log2(stride))}": stride for stride in strides}

    @property
    def size_divisibility(self) -> int:
        """Image sides should be multiples of this many pixels, the coarsest stride.

        Multiples of the patch size work as well; the coarsest map then sticks out of the image.
        """
        return 2 * self.trunk.patch_size

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], PassRecord]:
        """(B, 3, height, width), sides multiples of p -> maps by name, and the pass's record."""
        trunk = self.trunk
        state = trunk.embed(images)
        stem, levels = self.spatial_prior(images)
        geometry = Geometry.of(
            state.grid.shape, [tuple(m.shape[2:]) for m in levels], images.device
        )
        prior = torch.cat(
            [
                level.flatten(2).transpose(1, 2) + embedding
                for level, embedding in zip(levels, self.level_embed, strict=True)
            ],
            dim=1,
        )
        for stage, injector, extractor in zip(self.stages, self.injectors, self.extractors):
            injected = injector(trunk.read_map(state), prior, geometry)
            state = trunk.run(trunk.write_map(state, injected), stage.start, stage.stop)
            prior = extractor(prior, trunk.read_map(state), geometry)
        patches = trunk.read_map(state)
        for extractor in self.extractors[len(self.stages) :]:
            prior = extractor(prior, patches, geometry)
        maps = self.add_trunk(stem, prior, patches, geometry)
        return maps, PassRecord.of(state, patches)

    def add_trunk(
        self, stem: Tensor | None, prior: Tensor, patches: Tensor, geometry: Geometry
    ) -> dict[str, Tensor]:
        """Each map of the side branch plus the trunk's resized map, normalised, by name."""
        levels = level_maps(prior, geometry.levels)
        trunk_map = to_map(patches, geometry.trunk)
        norms = dict(zip(self.strides, self.norms, strict=True))
        maps = {}
        project = self.spatial_prior.fc1
        if stem is not None and project is not None and self.up is not None:
            name = next(iter(norms))
            finest = (project, stem), self.up, levels[0], trunk_map
            maps[name] = finest_map(*finest, norms.pop(name))
        for level, (name, norm) in zip(levels, norms.items(), strict=True):
            stride = self.strides[name] / self.trunk.patch_size
            maps[name] = add_and_norm(level, trunk_map, stride, norm)
        return maps


def stages_of(interactions: Sequence[Sequence[int]], depth: int) -> tuple[range, ...]:
    """Pairs [first, last] -> ranges of blocks. Raises InputError unless they cover the trunk."""
    stages = []
    upcoming = 0
    for pair in interactions:
        if len(pair) != 2 or not all(isinstance(block, int) for block in pair):
            raise InputError(f"{pair} is not a pair [first, last].", setting="interactions")
        first, last = pair
        problem = None
        if last < first:
            problem = "ends before it begins"
        elif first < upcoming:
            problem = f"overlaps what comes before it, which reaches block {upcoming - 1}"
        elif first > upcoming:
            problem = f"leaves a gap: block {upcoming} is in no interaction"
        elif last >= depth:
            problem = f"exceeds the trunk, whose {depth} blocks count from 0 to {depth - 1}"
        if problem:
            raise InputError(f"{list(pair)} {problem}.", setting="interactions")
        stages.append(range(first, last + 1))
        upcoming = last + 1
    if upcoming != depth:
        raise InputError(
            f"blocks {upcoming} to {depth - 1} are in no interaction.", setting="interactions"
        )
    return tuple(stages)
