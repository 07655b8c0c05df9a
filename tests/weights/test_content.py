"""Small files that stand for something very large: refused before anything walks through it."""

import codecs
import json
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from svit_det.errors import InputError
from svit_det.weights.files import DESCRIPTION, read_checkpoint, read_description

WEIGHTS = {"a.weight": torch.ones(2, 2)}


def doubled(value, wrap, times=40):
    for _ in range(times):
        value = wrap(value)
    return value


def inside_itself(value, put):
    put(value)
    return value


BOMBS = {
    "lists": doubled("x", lambda v: [v, v]),
    "tuples": doubled("x", lambda v: (v, v)),
    "dicts": doubled(1.0, lambda v: {"a": v, "b": v}),
    "a list in itself": inside_itself([], lambda v: v.append(v)),
    "a dict in itself": inside_itself({}, lambda v: v.update(a=v)),
    "deep": doubled([], lambda v: [v], times=100),
}


def refusal(path, read=read_checkpoint):
    with pytest.raises(InputError) as refused:
        read(str(path))
    said = str(refused.value)
    assert said.startswith(f"{path}: ") and said.isprintable() and len(said) < len(str(path)) + 250
    return said


@pytest.mark.parametrize("place", ["trainer", DESCRIPTION, "more"])
@pytest.mark.parametrize("name", BOMBS)
def test_values_that_are_named_again_and_again(tmp_path, name, place):
    torch.save({"model": WEIGHTS, place: {"classes": BOMBS[name]}}, tmp_path / "a.pth")
    said = refusal(tmp_path / "a.pth")
    assert "nested too deeply" in said or "values in it cannot be meant" in said


@pytest.mark.parametrize("place", ["model", "trainer"])
@pytest.mark.parametrize("shape", [(2**40,), (2**20, 2**20), (2**31,)])
def test_one_number_that_is_many(tmp_path, place, shape):
    content = {"model": dict(WEIGHTS), "trainer": {}}
    content[place]["b"] = torch.ones(1).expand(shape)
    torch.save(content, tmp_path / "a.pth")
    assert "its tensors repeat stored numbers" in refusal(tmp_path / "a.pth")


def test_many_tensors_of_one_number(tmp_path):
    many = {f"a{n}": torch.ones(1).expand(1_000_000) for n in range(100)}
    torch.save({"model": many}, tmp_path / "a.pth")
    assert "its tensors repeat stored numbers" in refusal(tmp_path / "a.pth")


class Calls:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


ONE_COPIED = (torch.ones(1).expand(2**29), torch.float64, "cpu", False)
CALLS = {
    "bytearray": Calls(bytearray, 2**31),
    "hex": doubled(b"x", lambda v: Calls(codecs.encode, v, "hex"), times=30),
    "one text many times": [Calls(codecs.encode, "x" * 100_000, "latin1")] * 2,
    "bytes": b"abc",
    "a copy": Calls(torch._utils._rebuild_device_tensor_from_cpu_tensor, *ONE_COPIED),
}


@pytest.fixture
def never_loaded(monkeypatch):
    """PyTorch's reader, which would call the functions, is never reached."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the file was loaded"))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_functions_that_fill_the_memory(tmp_path, never_loaded, name, zipped):
    content = {"model": WEIGHTS, "more": CALLS[name]}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert "may take any amount of memory; it was not executed" in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize("module", [b"builtins", b"__builtin__"])
def test_a_bare_pickle_that_asks_for_12_gigabytes(tmp_path, never_loaded, module):
    number = b"\x8a\x05" + (12 * 10**9).to_bytes(5, "little")
    code = b"\x80\x02c" + module + b"\nbytearray\n" + number + b"\x85R."
    (tmp_path / "a.pth").write_bytes(code)
    assert "may take any amount of memory; it was not executed" in refusal(tmp_path / "a.pth")


def test_a_pickle_in_capital_letters(tmp_path, never_loaded):
    """PyTorch's reader takes the name of the part in any letters."""
    path, to = tmp_path / "a.pth", tmp_path / "b.pth"
    torch.save({"model": WEIGHTS, "more": CALLS["bytearray"]}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename.replace("data.pkl", "DATA.pkl"), old.read(entry))
    assert "may take any amount of memory; it was not executed" in refusal(to)


def test_weights_that_share_memory_are_weights(tmp_path):
    one = torch.arange(6.0)
    shared = {"a": one, "b": one, "c": one[:3], "d": torch.ones(1).expand(50, 50)}
    torch.save({"model": shared}, tmp_path / "a.pth")
    read = read_checkpoint(str(tmp_path / "a.pth"))["model"]
    assert all(torch.equal(read[name], value) for name, value in shared.items())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.ones(2), "holds a Tensor, not plain values only"),
        (3j, "holds a complex, not plain values only"),
        ("x" * 2_000_000, "a description of that size cannot be meant"),
        (["x"] * 300_000, "more than 200,000 values"),
    ],
    ids=["tensor", "complex", "text", "list"],
)
def test_a_description_is_plain_and_short(tmp_path, value, said):
    torch.save({"model": WEIGHTS, DESCRIPTION: {"more": value}}, tmp_path / "a.pth")
    assert said in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize("read", [read_checkpoint, read_description])
@pytest.mark.parametrize(
    "head",
    ['{"a": ' * 100_000, "[" * 100_000, "", '{"a": 3', "[1]"],
    ids=["deep", "deep list", "empty", "cut", "list"],
)
def test_the_head_of_a_safetensors(tmp_path, head, read):
    save_file(WEIGHTS, tmp_path / "a.safetensors", metadata={DESCRIPTION: head})
    refusal(tmp_path / "a.safetensors", read)


def test_a_long_description_in_a_head(tmp_path):
    save_file(
        WEIGHTS,
        tmp_path / "a.safetensors",
        metadata={DESCRIPTION: json.dumps({"classes": ["x" * 10_000] * 1000})},
    )
    assert "of that size cannot be meant" in refusal(tmp_path / "a.safetensors", read_description)
