"""Small classifiers under any policy: 12 blocks of 24 channels, tokens of 4 x 4 pixels."""

import pytest
import torch

from svit_det.classification.model import TokenClassifier


@pytest.fixture
def classifier(tiny_trunk):
    """Factory: a classifier of 5 classes, no parameter at its initial 0 or 1, in eval mode."""

    def make(policy=None, *, reads="class_token", num_classes=5, **options):
        trunk = tiny_trunk(policy, class_token=True, **options)
        model = TokenClassifier(trunk=trunk, num_classes=num_classes, reads=reads)
        with torch.no_grad():
            for part in (model.norm, model.head, model.class_head):
                for parameter in [] if part is None else part.parameters():
                    parameter.add_(0.15 * torch.randn_like(parameter))
        return model.eval()

    return make
