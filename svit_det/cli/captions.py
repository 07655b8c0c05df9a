"""The words with which a picture, film or page names its model."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode


def model_words(cfg: CfgNode) -> str:
    """The weights' file and the policy, as in "weights svit.safetensors, policy SViT".

    detectron2 calls every trained model model_final.pth; the words then name the folder too.
    """
    path = Path(cfg.MODEL.WEIGHTS)
    name = f"{path.parent.name}/{path.name}" if path.stem.startswith("model_") else path.name
    return f"weights {name}, policy {cfg.MODEL.TOKEN_POLICY.NAME}"
