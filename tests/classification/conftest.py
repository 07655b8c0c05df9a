"""Small classifiers under any policy: 12 blocks of 24 channels, tokens of 4 x 4 pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from svit_det.classification.model import TokenClassifier


@pytest.fixture
def classifier(tiny_trunk):
    """Factory: a classifier of 5 classes, no parameter at its initial 0 or 1, in eval mode."""

    def make(policy=None, *, reads="class_token", num_classes=5, **options):
        trunk = tiny_trunk(policy, class_token=True, **options)
        model = TokenClassifier(trunk=trunk, num_classes=num_classes, reads=reads)
        with torch.no_grad():
            for part in (model.norm, model.head, model.class_norm, model.class_head):
                for parameter in [] if part is None else part.parameters():
                    parameter.add_(0.15 * torch.randn_like(parameter))
        return model.eval()

    return make


@pytest.fixture(scope="session")
def generated_images(tmp_path_factory):
    """Images in ImageNet's layout: three classes, eight to train on and four to test on of each."""
    root = tmp_path_factory.mktemp("generated")
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for label, name in enumerate(("blue", "green", "red")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 100, (20, 24, 3), dtype=np.uint8)
                pixels[..., 2 - label] += 150
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


SMALL = {
    "MODEL.NUM_CLASSES": 3,
    "MODEL.DEVICE": "cpu",
    "MODEL.VIT.PATCH_SIZE": 4,
    "MODEL.VIT.EMBED_DIM": 24,
    "MODEL.VIT.NUM_HEADS": 3,
    "MODEL.VIT.PRETRAIN_GRID": "[4, 4]",
    "MODEL.TOKEN_POLICY.IA_RED2.AGENT_HEADS": 3,
    "INPUT.SIZE": 16,
    "DATA.NUM_WORKERS": 0,
    "SOLVER.BATCH_SIZE": 8,
    "SOLVER.EPOCHS": 2,
    "TEST.BATCH_SIZE": 5,
}


@pytest.fixture
def small(generated_images, tmp_path):
    """Factory: KEY VALUE overrides of a small classifier on the generated images."""

    def options(**changed):
        keys = {**SMALL, "DATA.ROOT": generated_images, "OUTPUT_DIR": tmp_path / "run"}
        keys |= {key.replace("__", "."): value for key, value in changed.items()}
        return [str(word) for pair in keys.items() for word in pair]

    return options


@pytest.fixture(scope="session")
def points_of():
    """Factory: the points that tensorboard shows of a folder, (step, value) by the curve's name.

    Of the speed of evaluations there are the steps alone.
    """

    def read(folder):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        return {
            name: [
                (point.step, None if "per_second" in name else repr(point.value))
                for point in events.Scalars(name)
            ]
            for name in events.Tags()["scalars"]
        }

    return read


@pytest.fixture
def a_yaml(tmp_path):
    """A config that sets nothing."""
    path = tmp_path / "empty.yaml"
    path.write_text("MODEL: {}\n")
    return str(path)


@pytest.fixture
def root():
    """The project's folder."""
    return Path(__file__).resolve().parents[2]
