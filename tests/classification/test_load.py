"""A classifier from its file alone: the config inside is read within the limits of every config."""

import pytest
import torch

from svit_det.classification.config import load_config
from svit_det.classification.load import config_in, read_trained
from svit_det.classification.processes import Processes
from svit_det.classification.trainer import Trainer
from svit_det.classification.weights import save_weights
from svit_det.config.yaml_file import MOST_BYTES
from svit_det.errors import InputError
from svit_det.weights.files import DESCRIPTION

BOMB = "A: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "\n".join(
    f"{name}: &{name.lower()} [{', '.join([f'*{before}'] * 10)}]"
    for name, before in zip("BCDEFGHI", "abcdefgh")
)
HOSTILE = {
    "a bomb of aliases": (BOMB, "aliases written out, cannot be meant"),
    "deep": (f"A: {'[' * 40}{']' * 40}", "nested more than 30 deep"),
    "an alias to itself": ("A: &a [*a]", "an alias leads back to itself"),
    "a key twice": ("SOLVER: {EPOCHS: 3, EPOCHS: 4}", "SOLVER.EPOCHS stands twice"),
    "a tag": ("A: !!python/object/apply:os.getcwd []", "remove the python tag"),
    "large": (f"A: {'x' * MOST_BYTES}", "bytes cannot be meant"),
    "bases": ("_BASE_: /etc/hostname", "names no _BASE_"),
    "no keys": ("3", "a config holds keys with values"),
    "nothing": ("", "is empty"),
    "no yaml": ("A: [", "not a readable yaml config"),
    "not text": ("A: \x00", "not a readable yaml config"),
    "a key that is not there": ("SOLVER: {EPOCH: 3}", "the nearest is 'SOLVER.EPOCHS'"),
    "another kind": ("SOLVER: {EPOCHS: word}", "SOLVER.EPOCHS: 'word' is not of the type"),
    "out of its interval": ("SOLVER: {EMA_DECAY: 2.0}", "SOLVER.EMA_DECAY: 2.0 must lie in"),
    "a value for a node": ("SOLVER: 3", "SOLVER holds keys"),
}


@pytest.fixture
def trained(a_yaml, small, tmp_path):
    """A file of a small classifier."""
    cfg = load_config(a_yaml, small())
    path = tmp_path / "model_final.pth"
    save_weights(Trainer(cfg, Processes(), torch.device("cpu")).net, path, cfg, ["b", "g", "r"])
    return path


def test_a_good_file_and_an_override(trained):
    cfg, model = read_trained(str(trained), ["TEST.BATCH_SIZE", "3", "MODEL.DEVICE", "cpu"])
    assert (cfg.MODEL.NUM_CLASSES, cfg.TEST.BATCH_SIZE, model.num_classes) == (3, 3, 3)
    assert not model.training


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_config_inside(trained, case):
    text, said = HOSTILE[case]
    content = torch.load(trained, weights_only=True)
    content[DESCRIPTION]["config"] = text
    torch.save(content, trained)
    with pytest.raises(InputError) as refused:
        read_trained(str(trained))
    message = str(refused.value)
    assert message.startswith(f"the config in {trained}: ") and said in message
    assert "\n" not in message and len(message) < len(str(trained)) + 400


@pytest.mark.parametrize("config", [None, 3, ["A"], {"SOLVER": {}}])
def test_a_config_that_is_no_text(trained, config):
    content = torch.load(trained, weights_only=True)
    content[DESCRIPTION]["config"] = config
    torch.save(content, trained)
    with pytest.raises(InputError, match=r"model_final\.pth: does not say how it was trained"):
        read_trained(str(trained))


def test_an_override_is_named_as_such(a_yaml, small):
    text = load_config(a_yaml, small()).dump()
    with pytest.raises(InputError, match=r"^On the command line: SOLVER\.EMA_DECAY: 2\.0 must"):
        config_in(text, ["SOLVER.EMA_DECAY", "2.0"], source="the config in a.pth")
    with pytest.raises(InputError, match="stands alone"):
        config_in(text, ["SOLVER.EMA_DECAY"], source="the config in a.pth")
