"""detectron2's meta-architectures over a token backbone: R-CNN and RetinaNet."""

from __future__ import annotations

from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import GeneralizedRCNN, RetinaNet
from detectron2.structures import Instances

from svit_det.detection.token_losses import TokenLosses, pick


@META_ARCH_REGISTRY.register()
class TokenRCNN(TokenLosses, GeneralizedRCNN):
    """GeneralizedRCNN over a token backbone, with the heads of Mask R-CNN or Cascade R-CNN."""

    def inference(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict] | list[Instances]:
        """As GeneralizedRCNN's; each output dict also has `token_usage`, bare Instances do not.

        `detected_instances` are known boxes, one entry for each image.
        """
        run = super(TokenLosses, self).inference

        def detect(members: list[int]) -> list:
            known = None if detected_instances is None else pick(detected_instances, members)
            return run(pick(batched_inputs, members), known, do_postprocess)

        return self.run_by_size(batched_inputs, detect)


@META_ARCH_REGISTRY.register()
class TokenRetinaNet(TokenLosses, RetinaNet):
    """RetinaNet over a token backbone: boxes in one stage, no masks."""
