"""TokenClassifier: DeiT's class token and head over a trunk, under any policy.

B images, N patch tokens, C channels, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from svit_det.errors import InputError
from svit_det.tokens import PassRecord, TokenState
from svit_det.vit import TokenNet, TokenTrunk

LOGITS, CLASS_LOGITS = "logits", "class_logits"
"""The outputs of `TokenClassifier`: the logits and, in training with two heads, those of the second
head."""
NORM_EPS = 1e-6
"""Epsilon of the final norm, as in DeiT. The blocks may have another."""
READS = ("class_token", "patch_mean", "two_heads")
"""What the head may read."""


class TokenClassifier(TokenNet):
    """A trunk with a class token, a final norm and a linear head; names are DeiT's.

    `reads` says what the head reads. "class_token": the class token, as in DeiT. "patch_mean": the
    mean over all patch tokens, skipped ones included with the value they have. "two_heads", as in
    Evo-ViT's training: the mean, and in training a second head reads the class token through a norm
    of its own; inference does not use the second head.
    Source: Touvron et al. 2021 (DeiT); Xu et al. 2022 (Evo-ViT) for the two heads.

    Images of a batch may keep different numbers of tokens; the logits of an image do not depend on
    its neighbours.
    """

    def __init__(self, *, trunk: TokenTrunk, num_classes: int, reads: str = "class_token") -> None:
        super().__init__(trunk=trunk)
        if num_classes < 1:
            raise InputError(f"{num_classes} must be at least 1.", setting="num_classes")
        if reads not in READS:
            raise InputError(f"no '{reads}'; choose one of {', '.join(READS)}.", setting="reads")
        if trunk.cls_token is None:
            raise InputError(
                "a classifier's trunk has a class token; build it with one.", setting="class_token"
            )
        self.reads = reads
        # Set once here, so that a teacher (a copy with the policy Dense) records the same tokens.
        self.norms_record = trunk.policy.needs_teacher
        self.norm = nn.LayerNorm(trunk.embed_dim, eps=NORM_EPS)
        self.head = nn.Linear(trunk.embed_dim, num_classes)
        two = reads == "two_heads"
        self.class_norm = nn.LayerNorm(trunk.embed_dim, eps=NORM_EPS) if two else None
        self.class_head = nn.Linear(trunk.embed_dim, num_classes) if two else None
        for head in filter(None, (self.head, self.class_head)):
            trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.head.out_features

    @property
    def strides(self) -> dict[str, int]:
        """Empty: no output is a map."""
        return {}

    @property
    def size_divisibility(self) -> int:
        """Image sides must be multiples of this many pixels."""
        return self.trunk.patch_size

    @property
    def head_macs(self) -> int:
        """Multiply-adds of the head at inference, for one image."""
        return self.head.weight.numel()

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], PassRecord]:
        """(B, 3, height, width) -> {"logits": (B, K)}, and the record of the pass.

        In training with two heads the dict also has "class_logits" (B, K). If the policy learns
        from a teacher's tokens, the record holds the patch tokens after the final norm, else before
        it.
        """
        state = self.trunk(images)
        patches = self.trunk.read_map(state)
        outputs = self._read(state, patches)
        if self.norms_record:
            patches = self.norm(patches)
        return outputs, PassRecord.of(state, patches)

    def _read(self, state: TokenState, patches: Tensor) -> dict[str, Tensor]:
        outputs = {}
        if self.reads == "class_token":
            outputs[LOGITS] = self.head(self.norm(state.extra[:, 0]))
            return outputs
        outputs[LOGITS] = self.head(self.norm(patches.mean(dim=1)))
        if self.class_head is not None and self.class_norm is not None and self.training:
            outputs[CLASS_LOGITS] = self.class_head(self.class_norm(state.extra[:, 0]))
        return outputs
