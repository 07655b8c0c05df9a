"""Released classifiers' names, both ways, with random weights: nothing missing, nothing over."""

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch.testing import assert_close

from svit_det.classification.build import build_classifier
from svit_det.classification.config import load_config
from svit_det.errors import InputError
from svit_det.weights.classifiers import from_released, to_released

ROOT = Path(__file__).resolve().parents[2]
KINDS = {
    "deit": "deit_s",
    "svit": "svit_s",
    "evit": "evit_s",
    "ats": "ats_s",
    "evo-vit": "evo_vit_s",
    "dynamic-vit": "dynamic_vit_s",
    "a-vit": "a_vit_s",
}
C = 384


def released(kind):
    """Names and shapes of a released small classifier, typed out; random weights."""
    shapes = {
        "cls_token": (1, 1, C),
        "pos_embed": (1, 197, C),
        "patch_embed.proj.weight": (C, 3, 16, 16),
        "patch_embed.proj.bias": (C,),
        **pair("norm", C),
        **pair("head", 1000, C),
    }
    for block in range(12):
        parts = {"norm1": (C,), "norm2": (C,), "qkv": (3 * C, C), "proj": (C, C)}
        parts |= {"fc1": (4 * C, C), "fc2": (C, 4 * C)}
        for part, shape in parts.items():
            shapes |= PLACES.get(kind, timm_names)(block, part, shape)
    if kind == "svit":
        for gate in range(9):
            shapes |= pair(f"selective_modules.{gate}.norm", C)
            shapes |= pair(f"selective_modules.{gate}.mlp.fc1", C // 4, C)
            shapes |= pair(f"selective_modules.{gate}.mlp.fc2", 2, C // 4)
    if kind == "evo-vit":
        shapes |= pair("norm_cls", C) | pair("head_cls", 1000, C)
    if kind == "dynamic-vit":
        for stage in range(3):
            old = f"score_predictor.{stage}"
            shapes |= pair(f"{old}.in_conv.0", C) | pair(f"{old}.in_conv.1", C, C)
            shapes |= pair(f"{old}.out_conv.0", C // 2, C)
            shapes |= pair(f"{old}.out_conv.2", C // 4, C // 2)
            shapes |= pair(f"{old}.out_conv.4", 2, C // 4)
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def pair(name, rows, *columns):
    return {f"{name}.weight": (rows, *columns), f"{name}.bias": (rows,)}


def timm_names(block, part, shape):
    inside = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    return pair(f"blocks.{block}.{inside.get(part, part)}", *shape)


def torch_names(block, part, shape):
    layer = f"blocks.{block}.TransformerEncoderLayer"
    if part == "qkv":
        inside = f"{layer}.self_attn.in_proj"
        return {f"{inside}_weight": shape, f"{inside}_bias": shape[:1]}
    inside = {"proj": "self_attn.out_proj", "fc1": "linear1", "fc2": "linear2"}
    return pair(f"{layer}.{inside.get(part, part)}", *shape)


def evo_names(block, part, shape):
    if part == "qkv":
        return pair(f"qks.{block}.qk", 2 * C, C) | pair(f"vs.{block}.v", C, C)
    name = {"norm1": f"norms.{block}", "proj": f"projs.{block}", "norm2": f"blocks.{block}.norm2"}
    return pair(name.get(part, f"blocks.{block}.mlp.{part}"), *shape)


PLACES = {"svit": torch_names, "evo-vit": evo_names}


def model_of(kind):
    return build_classifier(load_config(str(ROOT / f"configs/imagenet/{KINDS[kind]}.yaml")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_released_classifier_goes_in_and_comes_out_again(kind):
    given, model = released(kind), model_of(kind)
    model.load_state_dict(from_released(kind, given, model, source="a file"), strict=True)
    back = to_released(kind, model, source="a model")
    assert sorted(back) == sorted(given)
    for name, value in given.items():
        assert torch.equal(back[name], value), name


def test_svits_classifier_has_206_keys_and_22_39_million_parameters():
    given = released("svit")
    assert len(given) == 206
    assert sum(value.numel() for value in given.values()) == 22_391_962
    assert sum(each.numel() for each in model_of("svit").parameters()) == 22_391_962


def test_timms_own_names_are_those_typed_out():
    theirs = timm.create_model("deit_small_patch16_224", num_classes=1000)
    assert {name: value.shape for name, value in theirs.state_dict().items()} == {
        name: value.shape for name, value in released("deit").items()
    }


def test_a_svit_whose_gates_keep_everyone_is_the_deit_of_its_weights():
    theirs = timm.create_model("deit_small_patch16_224", num_classes=1000).eval()
    dense = model_of("deit")
    dense.load_state_dict(from_released("deit", theirs.state_dict(), dense, source="timm"))
    sparse = model_of("svit").eval()
    sparse.load_state_dict(dense.state_dict(), strict=False)
    sparse.trunk.policy.set_keep_ratio(1.0)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert_close(sparse(images)[0]["logits"], theirs(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("head.bias"), "a file: head.bias of the model is not in the file."),
        (lambda w: w.update({"more.weight": w["head.bias"]}), "a file: more.weight in no row"),
        (
            lambda w: w.update({"head.bias": torch.zeros(5)}),
            r"a file: head.bias is \(5,\), in the model of --config-file \(1000,\)",
        ),
    ],
)
def test_too_little_too_much_and_other_shapes_are_refused(change, said):
    given = released("deit")
    change(given)
    with pytest.raises(InputError, match=said):
        from_released("deit", given, model_of("deit"), source="a file")


@pytest.mark.parametrize("kind", ["svit", "dynamic-vit", "evo-vit"])
def test_a_model_without_the_parts_of_a_kind_has_no_such_file(kind):
    with pytest.raises(InputError, match=f"a model: its model has no weights .* the kind {kind}"):
        to_released(kind, model_of("deit"), source="a model")


def test_the_command_goes_both_ways_without_detectron2(tmp_path):
    given = released("svit")
    torch.save({"model": given}, tmp_path / "released.pth")
    blocker = (
        "import sys; sys.modules['detectron2'] = None; import runpy; sys.argv = sys.argv[1:]; "
    )
    blocker += "runpy.run_path(sys.argv[0], run_name='__main__')"

    def convert(weights, output, *more):
        command = [sys.executable, "-c", blocker, str(ROOT / "tools/convert_weights.py")]
        command += ["--classifier", "--from", "svit", "--weights", str(tmp_path / weights)]
        command += ["--config-file", str(ROOT / "configs/imagenet/svit_s.yaml")]
        command += ["--output", str(tmp_path / output), *more]
        environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    assert convert("released.pth", "ours.pth").returncode == 0
    done = convert("ours.pth", "back.pth", "--reverse")
    assert done.returncode == 0 and "206 weights, 22,391,962 numbers" in done.stdout, done.stderr
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert all(torch.equal(back[name], value) for name, value in given.items())
    assert "no such file" in convert("nothing.pth", "x.pth").stderr
