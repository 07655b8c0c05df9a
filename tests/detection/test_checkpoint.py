"""Weights: whole modules or none, from files that are data and nothing else."""

import logging
import os
import pickle
from pathlib import Path

import pytest
import torch
from detectron2.utils.file_io import PathManager
from safetensors.torch import save_file

from svit_det.detection.checkpoint import TokenCheckpointer
from svit_det.errors import InputError
from svit_det.vit import find_token_net

DENSE = ("MODEL.TOKEN_POLICY.NAME", "Dense")
POLICY = "backbone.net.net.trunk.policy."


def save(weights, path):
    """As a training leaves it (.pth) or as it ships (.safetensors)."""
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in weights.items()}, path)
    else:
        torch.save({"model": weights}, path)
    return str(path)


def random_weights(model):
    """A state dict of the model in which nothing is as it was initialised."""
    generator = torch.Generator().manual_seed(11)
    return {
        name: torch.rand(value.shape, generator=generator).to(value.dtype)
        for name, value in model.state_dict().items()
    }


@pytest.fixture
def refuses(tiny_model):
    """Factory: the sentence with which a file is refused; the model must stay as it was."""

    def load(path, *options):
        model = tiny_model(*options)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(InputError) as refusal:
            TokenCheckpointer(model).load(str(path))
        assert "\n" not in str(refusal.value)
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name
        return str(refusal.value)

    return load


# ------------------------------------------------------------------ what is loaded


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_round_trip(tiny_model, tmp_path, suffix):
    model = tiny_model()
    weights = random_weights(model)
    TokenCheckpointer(model).load(save(weights, tmp_path / f"weights{suffix}"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_bare_state_dict_and_the_prefix_of_several_processes(tiny_model, tmp_path):
    model = tiny_model()
    weights = random_weights(model)
    torch.save({f"module.{name}": value for name, value in weights.items()}, tmp_path / "w.pth")
    TokenCheckpointer(model).load(str(tmp_path / "w.pth"))
    assert all(torch.equal(value, weights[n]) for n, value in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_half_precision_file(tiny_model, tmp_path, suffix):
    model = tiny_model()
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in random_weights(model).items()
    }
    TokenCheckpointer(model).load(save(weights, tmp_path / f"half{suffix}"))
    for name, value in model.state_dict().items():
        assert value.dtype == (torch.float32 if value.is_floating_point() else torch.int64)
        assert torch.equal(value, weights[name].to(value.dtype)), name


@pytest.mark.parametrize("file_asks", [False, True], ids=["plain", "asks for heuristics"])
def test_dense_file_into_svit_names_the_missing_gates(tiny_model, tmp_path, caplog, file_asks):
    dense, svit = tiny_model(*DENSE), tiny_model()
    fresh = {name: value.clone() for name, value in svit.state_dict().items()}
    weights = random_weights(dense)
    content = {"model": weights, "extra": 3}
    if file_asks:
        # detectron2's suffix matching must not find a gate's norm in another one.
        content["matching_heuristics"] = True
    torch.save(content, tmp_path / "dense.pth")
    with caplog.at_level(logging.WARNING):
        TokenCheckpointer(svit).load(str(tmp_path / "dense.pth"))
    for gate in (1, 2):
        assert f"{POLICY}gates.{gate}.fc1" in caplog.text
    for name, value in svit.state_dict().items():
        expected = fresh if name.startswith(POLICY) else weights
        assert torch.equal(value, expected[name]), name


def test_svit_file_into_dense(tiny_model, tmp_path, caplog):
    dense = tiny_model(*DENSE)
    weights = random_weights(tiny_model())
    with caplog.at_level(logging.WARNING):
        TokenCheckpointer(dense).load(save(weights, tmp_path / "svit.pth"))
    assert f"{POLICY}gates.1" in caplog.text
    assert all(torch.equal(value, weights[n]) for n, value in dense.state_dict().items())


def test_names_in_a_file_are_only_shown(tiny_model, tmp_path, caplog):
    model = tiny_model(*DENSE)
    path = tmp_path / "other.pth"
    odd = {f"{POLICY}gates.\x1b[2J.weight": torch.zeros(1)}
    torch.save({"model": model.state_dict() | odd}, path)
    with caplog.at_level(logging.WARNING):
        TokenCheckpointer(model).load(str(path))
    assert r"gates.\x1b[2J" in caplog.text and "\x1b[2J" not in caplog.text


def test_a_wrapped_policy_shares_its_files(tiny_model, tmp_path):
    wrapped = tiny_model("MODEL.TOKEN_POLICY.WRAPPERS", "['Forgetful']")
    weights = random_weights(tiny_model())
    TokenCheckpointer(wrapped).load(save(weights, tmp_path / "svit.pth"))
    gate = find_token_net(wrapped).trunk.policy.policy.gates["2"]
    assert torch.equal(gate.fc2.bias, weights[f"{POLICY}gates.2.fc2.bias"])


def test_a_class_token_that_is_not_in_the_file_starts_at_random(tiny_model, tmp_path, caplog):
    """The paper's way from a dense model to EViT, ATS and Evo-ViT; one line says so."""
    dense = tiny_model("MODEL.TOKEN_POLICY.NAME", "Dense")
    path = save(random_weights(dense), tmp_path / "dense.pth")
    model = tiny_model("MODEL.TOKEN_POLICY.NAME", "EvoViT")
    trunk = find_token_net(model).trunk
    fresh = trunk.cls_token.clone()
    with caplog.at_level(logging.INFO):
        TokenCheckpointer(model).load(path)
    lines = [line for line in caplog.messages if "has no class token" in line]
    assert lines == [
        f"{path} has no class token: backbone.net.net.trunk.cls_token starts at random."
    ]
    assert torch.equal(trunk.cls_token, fresh) and fresh.any()
    assert trunk.blocks[1].norm1.bias.any()  # the rest is loaded


def test_a_class_token_has_no_place_in_a_dense_model(tiny_model, tmp_path, refuses):
    options = ("MODEL.TOKEN_POLICY.NAME", "EvoViT")
    said = refuses(save(random_weights(tiny_model(*options)), tmp_path / "evo.pth"))
    assert "trunk.cls_token" in said and "not in the model" in said


def test_a_head_that_is_not_in_the_file_starts_fresh_and_is_named(tiny_model, tmp_path, caplog):
    model = tiny_model()
    fresh = model.roi_heads.mask_head.predictor.weight.detach().clone()
    weights = {n: v for n, v in random_weights(model).items() if "mask_head" not in n}
    with caplog.at_level(logging.WARNING):
        TokenCheckpointer(model).load(save(weights, tmp_path / "boxes.pth"))
    assert "roi_heads.mask_head.predictor" in caplog.text
    assert torch.equal(model.roi_heads.mask_head.predictor.weight, fresh)
    name = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(model.get_parameter(name), weights[name])


def test_nothing_to_load(tiny_model):
    assert TokenCheckpointer(tiny_model()).load("") == {}


# ------------------------------------------------------------------ another architecture


def test_another_width_is_named(tiny_model, tmp_path, refuses):
    path = save(random_weights(tiny_model()), tmp_path / "narrow.pth")
    said = refuses(path, "MODEL.VIT.EMBED_DIM", 48)
    assert "another architecture" in said and "narrow.pth" in said
    assert "backbone.simfp_2.0.weight" in said and "(32, 16, 2, 2) for (48, 24, 2, 2)" in said


def test_another_depth_is_named(tiny_model, tmp_path, refuses):
    weights = random_weights(tiny_model("MODEL.VIT.DEPTH", 4))
    said = refuses(save(weights, tmp_path / "deep.pth"))
    assert "blocks.3." in said and "not in the model" in said


def test_another_number_of_gates_is_named(tiny_model, tmp_path, refuses):
    options = ("MODEL.TOKEN_POLICY.LAYERS", "[1]", "MODEL.TOKEN_POLICY.KEEP_RATIOS", "[0.5]")
    said = refuses(save(random_weights(tiny_model(*options)), tmp_path / "one.pth"))
    assert "policy" in said


def test_another_model_altogether(tmp_path, refuses):
    weights = {"blocks.0.attn.qkv.weight": torch.zeros(3), "head.bias": torch.zeros(2)}
    said = refuses(save(weights, tmp_path / "deit.pth"))
    assert "blocks.0.attn.qkv.weight" in said and "head.bias" in said
    assert "nothing in the file is in the model" in said


@pytest.mark.parametrize(
    "name", ["backbone.net.net.trunk.blocks.1.mlp.fc1.bias", f"{POLICY}gates.2.fc2.weight"]
)
def test_partially_missing_module_is_named(tiny_model, tmp_path, refuses, name):
    weights = random_weights(tiny_model())
    del weights[name]
    said = refuses(save(weights, tmp_path / "partial.pth"))
    assert f"{name} are not in the file" in said


def test_gates_of_other_blocks_do_not_fit_by_accident(tiny_model, tmp_path, refuses):
    weights = random_weights(tiny_model("MODEL.TOKEN_POLICY.LAYERS", "[0, 2]"))
    said = refuses(save(weights, tmp_path / "other_blocks.pth"))  # by the model with [1, 2]
    assert f"{POLICY}gates.1.norm.weight" in said


# ------------------------------------------------------------------ a file is data


class Mischief:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".pyth", ".bin"])
@pytest.mark.parametrize("zipped", [False, True], ids=["pickle", "torch.save"])
def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path, refuses, suffix, zipped):
    trace, path = tmp_path / "was_here", tmp_path / f"evil{suffix}"
    content = {"model": {"weight": Mischief(trace)}, "__author__": "nobody"}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    said = refuses(path)
    assert str(path) in said and "not executed" in said
    assert not trace.exists()
    # The danger is real.
    if zipped:
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert trace.is_dir()


def test_suffix_matching_is_refused(tiny_model, tmp_path):
    path = save(random_weights(tiny_model(*DENSE)), tmp_path / "dense.pth")
    with pytest.raises(InputError, match="matching_heuristics would load weights into gates"):
        TokenCheckpointer(tiny_model()).load(f"{path}?matching_heuristics=True")


@pytest.mark.parametrize(
    "content",
    [[1, 2], torch.zeros(3), {"model": {"weight": 3}}, {"state_dict": {}}, {"model": [1]}, {1: 2}],
    ids=["list", "tensor", "number", "nested", "list inside", "number as name"],
)
def test_a_file_without_tensors_by_name(tmp_path, refuses, content):
    torch.save(content, tmp_path / "odd.pth")
    said = refuses(tmp_path / "odd.pth")
    assert "odd.pth" in said


BROKEN = {
    "empty.pth": lambda whole: b"",
    "empty.safetensors": lambda whole: b"",
    "text.pth": lambda whole: b"these are not weights\n",
    "text.safetensors": lambda whole: b"these are not weights\n",
    "zeros.pth": lambda whole: bytes(500),
    "cut.pth": lambda whole: whole[: len(whole) // 2],
    "cut_late.pth": lambda whole: whole[:-7],
    "cut.safetensors": lambda whole: whole[: len(whole) // 2],
    "beheaded.pth": lambda whole: whole[100:],
    "half_a_pickle.pkl": lambda whole: pickle.dumps({"model": list(range(99))})[:50],
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file(tiny_model, tmp_path, refuses, name):
    path = tmp_path / name
    whole = tmp_path / f"whole{path.suffix}"
    save(random_weights(tiny_model()), whole)
    path.write_bytes(BROKEN[name](whole.read_bytes()))
    assert str(path) in refuses(path)


def test_missing_file_and_folder(tmp_path, refuses):
    assert "nowhere.pth: no such file" in refuses(tmp_path / "nowhere.pth")
    assert str(tmp_path) in refuses(tmp_path)


ADDRESSES = ["https://example.org/w.pth", "detectron2://ImageNetPretrained/MSRA/R-50.pkl"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_nothing_is_fetched(refuses, address, monkeypatch):
    def fetch(*arguments, **options):
        raise AssertionError("detectron2 was asked for an address")

    monkeypatch.setattr(PathManager, "get_local_path", fetch)
    assert f"MODEL.WEIGHTS {address}: a file is wanted, not a URL" in refuses(address)


def test_a_refusal_does_not_spoil_the_next_load(tiny_model, tmp_path):
    model = tiny_model()
    checkpointer = TokenCheckpointer(model)
    (tmp_path / "broken.pth").write_bytes(b"")
    with pytest.raises(InputError):
        checkpointer.load(str(tmp_path / "broken.pth"))
    weights = random_weights(model)
    checkpointer.load(save(weights, tmp_path / "whole.pth"))
    assert all(torch.equal(value, weights[n]) for n, value in model.state_dict().items())


# ------------------------------------------------------------------ numbers of another kind


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", [torch.bool, torch.int32])
def test_nothing_is_cast(tiny_model, tmp_path, refuses, suffix, kind):
    weights = random_weights(tiny_model())
    name = "backbone.net.net.trunk.blocks.1.mlp.fc1.bias"
    weights[name] = weights[name].to(kind)
    said = refuses(save(weights, tmp_path / f"cast{suffix}"))
    assert f"{name} holds " in said and "nothing is cast" in said


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_nothing_becomes_infinite(tiny_model, tmp_path, refuses, suffix):
    """1e300 is finite in the file, and infinite in a model of single precision."""
    weights = random_weights(tiny_model())
    name = "backbone.net.net.trunk.blocks.1.mlp.fc1.bias"
    weights[name] = weights[name].double().fill_(1e300)
    said = refuses(save(weights, tmp_path / f"large{suffix}"))
    assert f"numbers in {name} that are too large for the model's precision, float32" in said


# ------------------------------------------------------------------ last_checkpoint


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "names no file of its folder"),
        (b"..", "which is no file"),
        (b"../elsewhere/model_final.pth", "names no file of its folder"),
        (b"/etc/passwd", "names no file of its folder"),
        (b"gone.pth", "which is no file"),
        (b"\xff\xfe", "cannot be read (it holds no name of a file)"),
        (b"a\0b", "which is no file"),
        (b"x" * 255, "which is no file"),
        (b"x" * 5000, "names no file of its folder"),
        (Path.mkdir, "a folder, a pipe or a device"),
        (os.mkfifo, "a folder, a pipe or a device"),
        (lambda tag: tag.symlink_to("/dev/zero"), "a folder, a pipe or a device"),
    ],
)
def test_a_broken_last_checkpoint_is_named(tiny_model, tmp_path, content, said):
    """detectron2 begins anew, without a word, where it cannot read the file."""
    tag = tmp_path / "last_checkpoint"
    if callable(content):
        content(tag)
    else:
        tag.write_bytes(content)
    with pytest.raises(InputError) as refusal:
        TokenCheckpointer(tiny_model(), str(tmp_path)).resume_or_load("other.pth", resume=True)
    assert str(refusal.value).startswith(f"{tag}: ") and said in str(refusal.value)
    assert "MODEL.WEIGHTS" not in str(refusal.value) and str(refusal.value).isprintable()


def test_a_folder_as_weights_is_called_a_folder(tmp_path, refuses):
    assert "a folder, not a file of weights" in refuses(tmp_path)
