"""tools/convert_weights.py: a file with other names becomes one that a config starts from."""

import json
import math
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from safetensors.torch import load_file, save_file

from svit_det.detection import load_config
from svit_det.detection.checkpoint import TokenCheckpointer
from svit_det.vit import find_token_net

F64 = torch.float64
ADAPTER = (
    *("MODEL.BACKBONE.NAME", "build_vit_adapter_fpn_backbone"),
    *("MODEL.ADAPTER.INTERACTIONS", "[[0, 0], [1, 2]]"),
    *("MODEL.ADAPTER.DEFORM_NUM_HEADS", 2),
    *("MODEL.ADAPTER.STEM_WIDTH", 4),
    *("MODEL.ADAPTER.TOP_BLOCK", False),
    *("MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4']"),
)


@pytest.fixture
def convert(fork_tool, tiny_yaml, tmp_path):
    """Factory: run the tool; returns the path it wrote and what it said."""

    def run(kind, weights, *options, name="out.pth"):
        output = tmp_path / "new" / name
        arguments = ["--from", kind, "--weights", weights, "--config-file", tiny_yaml]
        done = fork_tool("convert_weights.py", *arguments, "--output", output, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return output, done.stdout

    return run


def trunk_of(model):
    return find_token_net(model).trunk


@pytest.fixture
def deit(tiny_model):
    """The tiny trunk's weights in timm's names, with what a classifier has besides; 4 x 4 grid."""
    trunk = trunk_of(tiny_model())
    weights = {n: v for n, v in trunk.state_dict().items() if not n.startswith("policy.")}
    weights = {name: torch.randn_like(value) for name, value in weights.items()}
    weights["pos_embed"] = torch.randn(1, 17, 32)
    weights |= {"cls_token": torch.zeros(1, 1, 32), "norm.weight": torch.ones(32)}
    return weights | {"head.weight": torch.zeros(5, 32), "head.bias": torch.zeros(5)}


@pytest.mark.parametrize("options", [(), ADAPTER], ids=["pyramid", "adapter"])
def test_deit_becomes_the_trunk(convert, deit, tiny_model, tmp_path, options):
    torch.save({"model": deit}, tmp_path / "deit.pth")
    output, said = convert("deit", tmp_path / "deit.pth", *options)
    assert "start as initialised" in said
    model = tiny_model(*options)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    TokenCheckpointer(model).load(str(output))
    trunk = trunk_of(model)
    name = "blocks.2.mlp.fc1.weight"
    assert torch.equal(trunk.state_dict()[name], deit[name])
    assert trunk.pos_embed.shape == (1, 65, 32)  # resized to 8 x 8
    assert torch.equal(trunk.pos_embed[:, 0], deit["pos_embed"][:, 0])
    means = [trunk.pos_embed[:, 1:].mean(), deit["pos_embed"][:, 1:].mean()]
    assert abs(means[0] - means[1]) < 0.05
    for name, value in model.state_dict().items():
        if ".trunk." not in name or ".policy." in name:
            assert torch.equal(value, fresh[name]), name


def test_deits_class_token_is_an_option(convert, deit, tiny_model, tmp_path, refused, tiny_yaml):
    deit["cls_token"] = torch.randn(1, 1, 32)
    torch.save(deit, tmp_path / "deit.pth")
    for option, theirs in (("--class-token", True), ("--", False)):
        policy = ("MODEL.TOKEN_POLICY.NAME", "AttentionProbe")
        flags = (option, *policy) if theirs else policy
        output, _ = convert("deit", tmp_path / "deit.pth", *flags, name=f"{theirs}.pth")
        model = tiny_model(*policy)
        fresh = trunk_of(model).cls_token.clone()
        TokenCheckpointer(model).load(str(output))
        expected = deit["cls_token"] if theirs else fresh
        assert torch.equal(trunk_of(model).cls_token, expected)
    arguments = ["--from", "deit", "--weights", tmp_path / "deit.pth", "--config-file", tiny_yaml]
    arguments += ["--output", tmp_path / "out.pth", "--class-token"]
    said = refused("convert_weights.py", *arguments)
    assert "trunk.cls_token is not in the model of --config-file" in said
    arguments[1] = "trunk"
    assert "--class-token goes with --from deit" in refused("convert_weights.py", *arguments)


def test_the_originals_evo_vit_becomes_the_whole_backbone(fork_tool, tmp_path):
    fixtures = Path(__file__).resolve().parents[1] / "fixtures"
    shapes = dict(json.loads((fixtures / "evo_vit_adapter_t.keys.json").read_text()))
    theirs = {name: torch.randn(shape) for name, shape in shapes.items()}
    for name in theirs:  # what batch norms count is a whole number
        if name.endswith("num_batches_tracked"):
            theirs[name] = torch.tensor(3)
    torch.save({"state_dict": theirs}, tmp_path / "evo.pth")
    root = Path(__file__).resolve().parents[2]
    config, output = str(root / "configs/evo_vit_t.yaml"), tmp_path / "out.pth"
    arguments = ["--from", "evo-vit", "--weights", tmp_path / "evo.pth", "--config-file", config]
    done = fork_tool("convert_weights.py", *arguments, "--output", output)
    assert done.returncode == 0, done.stdout + done.stderr
    model = build_model(load_config(config, ["MODEL.DEVICE", "cpu"]))
    TokenCheckpointer(model).load(str(output))
    trunk = trunk_of(model)
    assert torch.equal(trunk.cls_token, theirs["cls_token"])
    joined = torch.cat([theirs["qks.7.qk.weight"], theirs["vs.7.v.weight"]])
    assert torch.equal(trunk.blocks[7].attn.qkv.weight, joined)
    assert torch.equal(trunk.blocks[7].norm1.bias, theirs["norms.7.bias"])


def test_a_trunk_moves_to_another_pyramid(convert, tiny_model, tmp_path):
    source = tiny_model()
    for parameter in source.parameters():
        parameter.data.normal_()
    save_file(source.state_dict(), tmp_path / "trained.safetensors")
    output, _ = convert("trunk", tmp_path / "trained.safetensors", *ADAPTER, name="t.safetensors")
    assert set(load_file(output)) < set(tiny_model(*ADAPTER).state_dict())
    target = tiny_model(*ADAPTER)
    TokenCheckpointer(target).load(str(output))
    ours, theirs = trunk_of(target).state_dict(), trunk_of(source).state_dict()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value) != name.startswith("policy.gates"), name


def test_the_originals_svit_becomes_the_whole_backbone(convert, tiny_config, tmp_path):
    """A state dict in the original's names, inside a detector's checkpoint of mmdetection."""
    options = (*ADAPTER, "MODEL.ADAPTER.NUM_EXTRA_EXTRACTORS", 1)
    torch.manual_seed(0)
    model = build_model(tiny_config(*options))
    ours = find_token_net(model).state_dict()
    theirs = {
        in_the_originals_words(name): torch.randn_like(value.float()).to(value.dtype)
        for name, value in ours.items()
        if ".budget." not in name
    }
    detector = {f"backbone.{name}": value for name, value in theirs.items()}
    detector["neck.fpn_convs.0.conv.bias"] = torch.zeros(3)
    torch.save({"state_dict": detector, "meta": {"epoch": 6}}, tmp_path / "svit.pth")
    output, said = convert("svit", tmp_path / "svit.pth", *options)
    assert "1e-5" in said and "threshold" in said
    TokenCheckpointer(model).load(str(output))
    for name, value in find_token_net(model).state_dict().items():
        if ".budget." not in name:
            expected = theirs[in_the_originals_words(name)]
            assert torch.equal(value.float(), expected.to(value.dtype).float()), name


def in_the_originals_words(name):
    """The inverse of the table, for two interactions, one extra extractor, gates at 1 and 2."""
    parts = name.split(".")
    if name.startswith("trunk.policy.gates."):
        rest = ".".join(parts[4:])
        module = "norm." if parts[4] == "norm" else "mlp."
        return f"selective_modules.{int(parts[3]) - 1}." + (
            rest if module == "norm." else "mlp." + rest
        )
    if name.startswith("trunk.blocks."):
        words = {
            "attn.qkv.weight": "self_attn.in_proj_weight",
            "attn.qkv.bias": "self_attn.in_proj_bias",
        }
        rest = ".".join(parts[3:])
        rest = words.get(rest, rest.replace("attn.proj", "self_attn.out_proj"))
        rest = rest.replace("mlp.fc1", "linear1").replace("mlp.fc2", "linear2")
        return f"blocks.{parts[2]}.TransformerEncoderLayer.{rest}"
    if name.startswith("norms."):
        return f"norm{int(parts[1]) + 1}.{parts[2]}"
    if name.startswith("injectors."):
        return f"interactions.{parts[1]}.injector." + ".".join(parts[2:])
    if name.startswith("extractors."):
        rest = ".".join(parts[2:]).replace("ffn.dwconv", "ffn.dwconv.dwconv")
        which = "1.extra_extractors.0" if parts[1] == "2" else f"{parts[1]}.extractor"
        return f"interactions.{which}.{rest}"
    return name.removeprefix("trunk.").replace("spatial_prior", "spm")


# ------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("blocks.1.norm1.bias"), "trunk.blocks.1.norm1.bias is not in the file"),
        (lambda w: w.update({"blocks.3.norm1.bias": torch.zeros(32)}), "trunk.blocks.3.norm1.bias"),
        (lambda w: w.update({"blocks.0.norm1.bias": torch.zeros(3)}), "has another shape"),
        (lambda w: w.update({"fancy": torch.zeros(3)}), "fancy in no row"),
        (lambda w: w["blocks.1.norm1.bias"].fill_(math.nan), "not finite in trunk.blocks.1.norm1"),
        (
            lambda w: w.update(
                {"blocks.1.norm1.bias": torch.full((32,), 1e300, dtype=torch.float64)}
            ),
            "trunk.blocks.1.norm1.bias that are too large",
        ),
    ],
)
def test_strict_both_ways(refused, deit, tiny_yaml, tmp_path, change, said):
    change(deit)
    torch.save(deit, tmp_path / "deit.pth")
    arguments = ["--from", "deit", "--weights", tmp_path / "deit.pth"]
    arguments += ["--config-file", tiny_yaml, "--output", tmp_path / "out.pth"]
    assert said in refused("convert_weights.py", *arguments)
    assert not list(tmp_path.glob("out*"))


def test_refused_files(refused, tiny_yaml, tmp_path):
    config = ["--config-file", tiny_yaml, "--output"]
    arguments = ["--from", "deit", "--weights", "nowhere.pth", *config]
    assert "nowhere.pth: no such file" in refused("convert_weights.py", *arguments, "o.pth")
    assert "--output o.txt" in refused("convert_weights.py", *arguments, "o.txt")
    (tmp_path / "text.pth").write_text("no weights")
    arguments[3] = tmp_path / "text.pth"
    assert "not a file of plain weights" in refused("convert_weights.py", *arguments, "o.pth")
    torch.save({"model": {"head.weight": torch.zeros(1)}}, tmp_path / "head.pth")
    arguments[3] = tmp_path / "head.pth"
    assert "no pos_embed" in refused("convert_weights.py", *arguments, "o.pth")


def test_the_weights_that_are_read_are_not_replaced(refused, tiny_yaml, tiny_model, tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"model": tiny_model().state_dict()}, path)
    before = path.read_bytes()
    arguments = ["--from", "trunk", "--weights", path, "--config-file", tiny_yaml]
    said = refused("convert_weights.py", *arguments, "--overwrite", "--output", path)
    assert "a.pth: is one of the files that are read" in said
    assert path.read_bytes() == before
