"""DeiT's names to our trunk, against DeiT's own computation in timm's layout written out here."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from svit_det.errors import InputError
from svit_det.weights.deit import from_deit

WIDTH, HEADS, DEPTH, SIDE = 24, 3, 2, 3


@pytest.fixture
def deit():
    """A DeiT of two blocks with random weights, in timm's names."""
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + SIDE**2, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 4, 4),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "head.weight": (10, WIDTH),
        "head.bias": (10,),
    }
    for block in range(DEPTH):
        layers = {
            "norm1": (WIDTH,),
            "attn.qkv": (3 * WIDTH, WIDTH),
            "attn.proj": (WIDTH, WIDTH),
            "norm2": (WIDTH,),
            "mlp.fc1": (2 * WIDTH, WIDTH),
            "mlp.fc2": (WIDTH, 2 * WIDTH),
        }
        for layer, shape in layers.items():
            shapes[f"blocks.{block}.{layer}.weight"] = shape
            shapes[f"blocks.{block}.{layer}.bias"] = shape[:1]
    return {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}


def tokens_of(weights, images, *, class_token=False):
    """What DeiT computes, textbook fashion; without its class token unless asked for."""
    w = weights
    x = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=4)
    x = x.flatten(2).transpose(1, 2) + w["pos_embed"][:, 1:]
    if class_token:
        x = torch.cat([(w["cls_token"] + w["pos_embed"][:, :1]).expand(len(x), 1, -1), x], dim=1)
    for block in range(DEPTH):

        def linear(rows, name, block=block):
            return F.linear(
                rows, w[f"blocks.{block}.{name}.weight"], w[f"blocks.{block}.{name}.bias"]
            )

        def norm(rows, name, block=block):
            scale, shift = (w[f"blocks.{block}.{name}.{part}"] for part in ("weight", "bias"))
            return F.layer_norm(rows, (WIDTH,), scale, shift, 1e-6)

        qkv = linear(norm(x, "norm1"), "attn.qkv").view(*x.shape[:2], 3, HEADS, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attention = (query @ key.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5).softmax(dim=-1)
        x = x + linear((attention @ value).transpose(1, 2).flatten(2), "attn.proj")
        x = x + linear(F.gelu(linear(norm(x, "norm2"), "mlp.fc1")), "mlp.fc2")
    return x


def test_same_weights_same_tokens(deit, tiny_trunk):
    renamed, side = from_deit(deit, source="deit.pth")
    assert side == SIDE
    trunk = tiny_trunk(depth=DEPTH, pretrain_grid=(SIDE, SIDE))
    trunk.load_state_dict({name.removeprefix("trunk."): value for name, value in renamed.items()})
    images = torch.randn(2, 3, 12, 12)
    assert_close(trunk(images).patches, tokens_of(deit, images), atol=1e-5, rtol=1e-5)


def test_its_class_token_is_an_option(deit, tiny_trunk, class_everyone):
    renamed, _ = from_deit(deit, source="deit.pth", class_token=True)
    trunk = tiny_trunk(class_everyone(), depth=DEPTH, pretrain_grid=(SIDE, SIDE))
    trunk.load_state_dict({name.removeprefix("trunk."): value for name, value in renamed.items()})
    images = torch.randn(2, 3, 12, 12)
    state, expected = trunk(images), tokens_of(deit, images, class_token=True)
    assert_close(state.tokens, expected, atol=1e-5, rtol=1e-5)


def test_class_token_norm_and_head_are_left_out(deit):
    renamed, _ = from_deit(deit, source="deit.pth")
    assert len(renamed) == len(deit) - 5
    assert all(name.startswith("trunk.") for name in renamed)


def test_distilled(deit):
    with pytest.raises(InputError, match=r"d\.pth: a distilled DeiT"):
        from_deit(deit | {"dist_token": torch.zeros(1, 1, WIDTH)}, source="d.pth")


def test_another_network(deit):
    with pytest.raises(InputError, match=r"blocks\.0\.ls1\.gamma\.x\.y"):
        from_deit(deit | {"blocks.0.ls1.gamma.x.y": torch.zeros(1)}, source="dino.pth")
    with pytest.raises(InputError, match="no pos_embed"):
        from_deit({"head.weight": torch.zeros(1)}, source="head.pth")


@pytest.mark.parametrize("count", [8, 1, 0])
def test_positions_that_are_no_square(deit, count):
    with pytest.raises(InputError, match=f"{count} patches besides one class token"):
        from_deit(deit | {"pos_embed": torch.zeros(1, 1 + count, WIDTH)}, source="d.pth")
