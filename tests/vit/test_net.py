"""Finding the network inside a model, the records of its passes, and maps that a policy writes."""

import copy

import pytest
import torch
from torch import nn

from svit_det.errors import InputError
from svit_det.policies import TokenPolicy
from svit_det.tokens import TokenGrid
from svit_det.vit import PlainViT, find_token_net, record_passes
from svit_det.vit.net import is_recorded


@pytest.fixture
def net(tiny_trunk):
    """A plain network of two blocks."""
    return PlainViT(trunk=tiny_trunk(depth=2))


def test_the_network_is_found_inside_a_model(net):
    model = nn.Sequential(nn.Identity(), nn.ModuleDict({"net": net}))
    assert find_token_net(model) is net
    assert find_token_net(net) is net


def test_a_model_without_a_network(net):
    with pytest.raises(InputError, match=r"^Linear holds no network"):
        find_token_net(nn.Linear(2, 2))


def test_every_pass_is_recorded_while_somebody_listens(net, images):
    class Model(nn.Module):
        """Drops the record, as pyramids do."""

        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, batch):
            return self.net(batch)[0]["last_feat"].mean()

    model = Model()
    model(images())
    with record_passes(model) as records:
        model(images(1, (3, 5)))
        model(images(3, (2, 4)))
        assert is_recorded(net)
    model(images())
    assert not is_recorded(net)
    assert [record.grid.shape for record in records] == [(3, 5), (2, 4)]
    assert [len(record.tokens) for record in records] == [1, 3]


def test_listening_ends_with_an_exception_and_leaves_a_copyable_model(net, images):
    with pytest.raises(KeyError), record_passes(net) as records:
        net(images())
        raise KeyError
    assert len(records) == 1
    assert not is_recorded(net)
    copy.deepcopy(net)  # a tensor with a history, left on it, could not be copied


def test_the_grid_of_an_image_without_padding(net):
    assert net.grid_of(9, 12) == TokenGrid((9, 12), 4)


class Doubled(TokenPolicy):
    """Shows the rest of the network twice what it holds."""

    def read_map(self, state):
        return 2 * state.patches

    def write_map(self, state, patches):
        return state.with_patches(patches / 2)


def test_the_map_is_what_the_policy_shows(tiny_trunk, images):
    plain = tiny_trunk(depth=2)
    doubled = tiny_trunk(Doubled(), depth=2)
    doubled.load_state_dict(plain.state_dict())
    batch = images()
    expected, _ = PlainViT(trunk=plain)(batch)
    maps, record = PlainViT(trunk=doubled)(batch)
    assert torch.equal(maps["last_feat"], 2 * expected["last_feat"])
    assert torch.equal(record.tokens.transpose(1, 2), maps["last_feat"].flatten(2))
    state = doubled(batch)
    assert torch.equal(doubled.write_map(state, doubled.read_map(state)).tokens, state.tokens)
