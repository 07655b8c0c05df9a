"""Learned parts of a policy that a checkpoint lacks: noticed while it loads, refused at inference.

This project's own checkpointer refuses such a file, or is told to allow it. detectron2's, and with
it `DefaultPredictor`, only writes a line to the log.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from svit_det.errors import InputError
from svit_det.weights.match import some


class RefusesUntrained(nn.Module):
    """A mixin for a backbone: it does not run with a policy of which a checkpoint had no weights.

    A model in training mode may load such a checkpoint, and a model that was in training mode since
    may run: that is how a policy gets its weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self._untrained: tuple[str, ...] = ()
        self.register_load_state_dict_post_hook(_note_untrained)

    def train(self, mode: bool = True) -> Any:
        """As torch's method."""
        if mode:
            self._untrained = ()
        return super().train(mode)

    def check_trained(self) -> None:
        """Raise InputError that names the parts that hold random numbers."""
        if self._untrained:
            raise InputError(
                f"MODEL.WEIGHTS: the file has no trained weights for {some(self._untrained)}, "
                "which hold random numbers; fine-tune these weights under the policy first, or run "
                "them all the same by svit_det.detection.Predictor with allow_untrained=True."
            )


def allow_untrained(model: nn.Module) -> None:
    """Let a model run whose checkpoint was judged by the code that loaded it."""
    for module in model.modules():
        if isinstance(module, RefusesUntrained):
            module._untrained = ()


def _note_untrained(backbone: RefusesUntrained, keys: Any) -> None:
    """torch calls this after loading; the missing keys are those of the whole model so far."""
    if backbone.training:
        return
    learned = [name for name, _ in backbone.named_parameters() if ".policy." in name]
    backbone._untrained = tuple(
        name
        for name in learned
        if any(key == name or key.endswith(f".{name}") for key in keys.missing_keys)
    )
