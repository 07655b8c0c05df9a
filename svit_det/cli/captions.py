"""What a picture, film or page says about the model that it shows."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode


def model_words(cfg: CfgNode) -> str:
    """The weights' file and the policy, as in "weights svit.safetensors, policy SViT".

    detectron2 calls every result model_final.pth, so that the folder is named too.
    """
    path = Path(cfg.MODEL.WEIGHTS)
    name = f"{path.parent.name}/{path.name}" if path.stem.startswith("model_") else path.name
    return f"weights {name}, policy {cfg.MODEL.TOKEN_POLICY.NAME}"
