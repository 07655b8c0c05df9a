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
"""What `TokenClassifier` returns: the answer and, in training with two heads, the second one."""
NORM_EPS = 1e-6
"""Of the final norm, DeiT's; the blocks' may be another."""
READS = ("class_token", "patch_mean", "two_heads")
"""What the head may read."""


class TokenClassifier(TokenNet):
    """A trunk with a class token, a final norm and a linear head; names are DeiT's.

    `reads` says what the head reads: the class token, as DeiT; the mean over all patch tokens,
    skipped ones with the value they have; or "two_heads", as Evo-ViT trains: the mean, and in
    training a second head with a norm of its own on the class token, which inference does not use.
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
        # Said at the beginning, so that a teacher, which is a dense copy, shows the same.
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
        """None of its outputs is a map."""
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
        """(B, 3, height, width) -> {"logits": (B, K)} and what the pass did.

        With two heads, in training also "class_logits" (B, K). The record's tokens are the patch
        tokens after the final norm where somebody learns from them, else before it.
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
