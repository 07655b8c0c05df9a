"""TokenRCNN: detectron2's R-CNN with the policy's losses in training, its usage at inference."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from svit_det.detection.backbone import find_token_backbone, record_traces
from svit_det.policies import AttentionProbe
from svit_det.tokens import TokenTrace


@META_ARCH_REGISTRY.register()
class TokenRCNN(GeneralizedRCNN):
    """GeneralizedRCNN over a token backbone; Mask R-CNN and Cascade heads alike."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """GeneralizedRCNN's arguments. Raises InputError for a backbone without tokens."""
        arguments = super().from_config(cfg)
        find_token_backbone(arguments["backbone"])
        return arguments

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """In training detectron2's loss dict plus the policy's `loss_*`; else `inference`."""
        if not self.training:
            return self.inference(batched_inputs)
        with record_traces(self) as traces:
            losses = super().forward(batched_inputs)
        policy, trace = find_token_backbone(self).policy, traces[-1]
        losses.update(policy.losses(trace, losses))
        policy.track(trace)
        _log_usage(trace)
        return losses

    def inference(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict] | list[Instances]:
        """As GeneralizedRCNN's, each output with `token_usage` besides.

        `token_usage` is (L, h, w) bool: block l processed this token of the image, padding cut off.
        Under `AttentionProbe`, `token_attention` (L, h, w) is what the class token looked at.
        Images of different size run one after the other: what is found in an image does not hang
        on its neighbours.
        """
        outputs: list = [None] * len(batched_inputs)
        for members in self._equally_padded(batched_inputs):
            given = [batched_inputs[index] for index in members]
            known = None
            if detected_instances is not None:
                known = [detected_instances[index] for index in members]
            found = self._inference_of_one_size(given, known, do_postprocess)
            for index, output in zip(members, found, strict=True):
                outputs[index] = output
        return outputs

    def _equally_padded(self, batched_inputs: list[dict]) -> list[list[int]]:
        """Indices of images that are of one size once padded to the backbone's multiple.

        Those run as one batch. Padding an image to a larger one's size would not only cost: its
        tokens would look at the padding, and its positions would shift.
        """
        step = max(self.backbone.size_divisibility, 1)
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, given in enumerate(batched_inputs):
            size = tuple(-(-side // step) for side in given["image"].shape[-2:])
            groups.setdefault(size, []).append(index)
        return list(groups.values())

    def _inference_of_one_size(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None,
        do_postprocess: bool,
    ) -> list[dict] | list[Instances]:
        with record_traces(self) as traces:
            outputs = super().inference(batched_inputs, detected_instances, do_postprocess)
        if not do_postprocess:
            return outputs
        backbone = find_token_backbone(self)
        patch = backbone.patch_size
        for index, (given, output) in enumerate(zip(batched_inputs, outputs, strict=True)):
            size = [-(-side // patch) for side in given["image"].shape[-2:]]
            output["token_usage"] = traces[-1].image_keep_maps(index, size)
            if isinstance(backbone.policy, AttentionProbe):
                output["token_attention"] = traces[-1].image_score_maps(index, size)
        return outputs


def _log_usage(trace: TokenTrace) -> None:
    """The kept share of each block that does not run everyone, into detectron2's event storage."""
    if all(selection.whole for selection in trace.selections):
        return
    storage = get_event_storage()
    for layer, share in enumerate(trace.keep_ratios().tolist()):
        if not trace.selections[layer].whole:
            storage.put_scalar(f"token_usage/block_{layer:02d}", share)
