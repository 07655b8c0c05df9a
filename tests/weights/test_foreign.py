"""Hostile and odd files of weights: nothing executed, nothing unpacked, each in our words."""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from svit_det.errors import InputError
from svit_det.weights.files import read_checkpoint
from svit_det.weights.kinds import other_kinds

WEIGHTS = {"a.weight": torch.ones(2, 2)}


class Calls:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


def refusal(path):
    with pytest.raises(InputError) as refused:
        read_checkpoint(str(path))
    said = str(refused.value)
    assert said.startswith(f"{path}: ") and said.isprintable() and len(said) < len(str(path)) + 250
    # PyTorch's advice is to load the file all the same.
    assert "weights_only" not in said and "PyTorch" not in said and "torch.load" not in said
    return said


def stored(path, content, **options):
    torch.save(content, path, **options)
    return path


# ------------------------------------------------------------------ nothing is executed

HOSTILE = {
    "mkdir": lambda trace: Calls(os.mkdir, trace),
    "system": lambda trace: Calls(os.system, f"mkdir {trace}"),
    "eval": lambda trace: Calls(eval, f"__import__('os').mkdir({trace!r})"),
    "exec": lambda trace: Calls(exec, f"import os; os.mkdir({trace!r})"),
    "getattr": lambda trace: Calls(getattr, "os", "mkdir"),
    "open": lambda trace: Calls(open, trace, "w"),
    "torch.load": lambda trace: Calls(torch.load, trace),
    "numpy": lambda trace: np.array([Calls(os.mkdir, trace)], dtype=object),
    "module": lambda trace: torch.nn.Linear(2, 2),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_pickles(tmp_path, name, zipped):
    trace = str(tmp_path / "was_here")
    content = {"model": WEIGHTS, "more": HOSTILE[name](trace)}
    path = stored(tmp_path / "a.pth", content, _use_new_zipfile_serialization=zipped)
    assert "it was not executed" in refusal(path)
    assert not os.path.exists(trace)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_bare_pickles(tmp_path, protocol):
    trace = str(tmp_path / "was_here")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Calls(os.mkdir, trace), protocol=protocol))
    assert "it was not executed" in refusal(tmp_path / "a.pkl")
    assert not os.path.exists(trace)


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nmkdir\n(S'%s'\ntR.",
        b"(S'%s'\nios\nmkdir\n.",
        b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93(S'%s'\ntR.",
        b"c__builtin__\neval\n(S'%s'\ntR.",
    ],
)
def test_opcodes_that_call(tmp_path, code):
    trace = tmp_path / "was_here"
    (tmp_path / "a.pth").write_bytes(code % str(trace).encode())
    refusal(tmp_path / "a.pth")
    assert not trace.exists()


def test_archives_of_other_kinds(tmp_path):
    trace = tmp_path / "was_here"
    evil = pickle.dumps(Calls(os.mkdir, str(trace)))
    with tarfile.open(tmp_path / "a.pth", "w") as archive:
        for name in ("pickle", "storages", "tensors", "../../escaped"):
            entry = tarfile.TarInfo(name)
            entry.size = len(evil)
            archive.addfile(entry, io.BytesIO(evil))
    refusal(tmp_path / "a.pth")
    np.savez(tmp_path / "b.npz", a=np.array([Calls(os.mkdir, str(trace))], dtype=object))
    for name in ("b.npz", "b.pth", "b.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / "b.npz").read_bytes())
        refusal(tmp_path / name)
    assert not trace.exists() and not (tmp_path.parent / "escaped").exists()


def test_a_program(tmp_path):
    class Doubles(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    torch.jit.script(Doubles()).save(tmp_path / "a.pth")
    assert "a TorchScript program" in refusal(tmp_path / "a.pth")


# ------------------------------------------------------------------ nothing is made up

SIZES = {
    "Tensor": lambda: Calls(torch.Tensor, 2, 2),
    "FloatTensor": lambda: Calls(torch.FloatTensor, 2),
    "a later one": lambda: [torch.ones(2), Calls(torch.Tensor, 3)],
    "beside a word": lambda: {"torch._tensor _rebuild_from_type_v2": Calls(torch.Tensor, 3)},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", SIZES)
def test_tensors_without_stored_numbers(tmp_path, name, zipped):
    content = {"model": {**WEIGHTS, "b.weight": SIZES[name]()}}
    path = stored(tmp_path / "a.pth", content, _use_new_zipfile_serialization=zipped)
    assert "makes tensors by calling their class, which may leave them without" in refusal(path)


def test_tensors_with_attributes_are_no_such_tensors(tmp_path):
    weight = torch.ones(2, 2)
    weight.written_by = "another program"
    path = stored(tmp_path / "a.pth", {"a.weight": weight})
    assert torch.equal(read_checkpoint(str(path))["model"]["a.weight"], torch.ones(2, 2))


# ------------------------------------------------------------------ nothing is unpacked


def rewritten(path, to, change):
    """The archive anew, each part after `change(name, content)`, which gives parts."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for entry in old.infolist():
            for name, content, method in change(entry.filename, old.read(entry)):
                new.writestr(name, content, method)
    return to


def test_archives_that_are_more_than_they_seem(tmp_path):
    path = stored(tmp_path / "a.pth", WEIGHTS)
    deflated = rewritten(
        path, tmp_path / "b.pth", lambda name, content: [(name, bytes(10**7), zipfile.ZIP_DEFLATED)]
    )
    assert "a compressed archive" in refusal(deflated)
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = rewritten(
            path,
            tmp_path / "c.pth",
            lambda name, content: [(name, content, zipfile.ZIP_STORED)] * 2,
        )
    assert "twice" in refusal(twice)
    content = bytearray(path.read_bytes())
    place = content.rfind(b"PK\x01\x02")
    content[place + 20 : place + 28] = struct.pack("<II", 2**31, 2**31)  # sizes in the directory
    (tmp_path / "d.pth").write_bytes(content)
    assert "larger than it" in refusal(tmp_path / "d.pth")
    (tmp_path / "e.pth").write_bytes(path.read_bytes()[:-10] + b"PK\x05\x06" + bytes(18))
    refusal(tmp_path / "e.pth")


@pytest.mark.parametrize("place", [4, 16])
def test_an_archive_that_says_it_has_several_parts(tmp_path, place):
    """Python's zipfile raises although it is only asked whether the file is an archive."""
    content = bytearray(stored(tmp_path / "a.pth", WEIGHTS).read_bytes())
    content[content.rfind(b"PK\x06\x07") + place] = 9
    (tmp_path / "a.pth").write_bytes(content)
    assert "cut short or damaged" in refusal(tmp_path / "a.pth")


HEAD = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"[]",
        b"{" * 10_000,
        b'{"a": 3}',
        b'{"__metadata__": [1], "a": %s}' % json.dumps(HEAD).encode(),
        json.dumps({"a": HEAD | {"shape": [2**62]}}).encode(),
        json.dumps({"a": HEAD | {"shape": [2**40, 2**40]}}).encode(),
        json.dumps({"a": HEAD | {"shape": [-1]}}).encode(),
        json.dumps({"a": HEAD | {"data_offsets": [0, 2**60]}}).encode(),
        json.dumps({"a": HEAD | {"data_offsets": [4, 0]}}).encode(),
        json.dumps({"a": HEAD | {"dtype": "OBJECT"}}).encode(),
        json.dumps({"a": HEAD, "b": HEAD}).encode(),
    ],
)
def test_heads_of_safetensors(tmp_path, head):
    path = with_head(tmp_path, head)
    assert "not a file of plain weights (Error while deserializing header" in refusal(path)


def with_head(folder, head, length=None):
    """A .safetensors file of four bytes behind this head, which claims to have `length` bytes."""
    path = folder / "a.safetensors"
    length = len(head) if length is None else length
    path.write_bytes(struct.pack("<Q", length) + head + struct.pack("<f", 2.5))
    return path


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 1000, 20, 0])
def test_a_good_head_of_another_length(tmp_path, length):
    head = json.dumps({"a": HEAD}).encode()
    weights = read_checkpoint(str(with_head(tmp_path, head)))["model"]
    assert {name: value.tolist() for name, value in weights.items()} == {"a": [2.5]}
    refusal(with_head(tmp_path, head, length))


def test_a_name_twice_in_a_head_is_one_tensor(tmp_path):
    """The reader takes the last entry of a name; no entry can reach beyond the file's own bytes."""
    good = json.dumps(HEAD).encode()
    weights = read_checkpoint(str(with_head(tmp_path, b'{"a": %s, "a": %s}' % (good, good))))
    assert {name: value.tolist() for name, value in weights["model"].items()} == {"a": [2.5]}
    for beyond in (HEAD | {"shape": [2**20]}, HEAD | {"shape": [2], "data_offsets": [0, 8]}):
        refusal(with_head(tmp_path, b'{"a": %s, "a": %s}' % (good, json.dumps(beyond).encode())))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_places_that_are_no_files(tmp_path, suffix):
    (tmp_path / f"folder{suffix}").mkdir()
    assert "a folder, not a file of weights" in refusal(tmp_path / f"folder{suffix}")
    os.mkfifo(tmp_path / f"pipe{suffix}")
    assert "a device or a pipe" in refusal(tmp_path / f"pipe{suffix}")
    assert "no such file" in refusal(tmp_path / f"nothing{suffix}")
    with pytest.raises(InputError, match="a\\\\x00b"):
        read_checkpoint(f"a\0b{suffix}")


# ------------------------------------------------------------------ forms and kinds


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"model": w},
        lambda w: {"state_dict": w},
        lambda w: {"model_state_dict": w},
        lambda w: {"model": {"state_dict": w}},
        lambda w: {"state_dict": {"model": w}, "epoch": 3},
        lambda w: {name: torch.nn.Parameter(value) for name, value in w.items()},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_forms_that_are_known(tmp_path, wrap, zipped):
    path = stored(tmp_path / "a.pth", wrap(WEIGHTS), _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(str(path))["model"]
    assert read.keys() == WEIGHTS.keys() and torch.equal(read["a.weight"], WEIGHTS["a.weight"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"net": WEIGHTS}, "holds tensors under 'net'; save what stands there alone"),
        ({"model": WEIGHTS, "state_dict": WEIGHTS}, "under both 'model' and 'state_dict'"),
        ({"model": {}}, "holds no tensors by name"),
        ({"a": torch.ones(2, device="meta")}, "a is an empty ('meta') tensor"),
        ({"a": torch.ones(2).to(torch.float8_e4m3fn)}, "a is an 8-bit tensor"),
        ({"a": torch.ones(2).to(torch.float8_e5m2)}, "a is an 8-bit tensor"),
    ],
)
def test_forms_that_are_not(tmp_path, content, said):
    assert said in refusal(stored(tmp_path / "a.pth", content))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (torch.bool, "true or false for real numbers"),
        (torch.int32, "whole numbers for real numbers"),
        (torch.uint8, "whole numbers for real numbers"),
        (torch.complex64, "complex numbers for real numbers"),
    ],
)
def test_kinds_of_numbers_that_would_be_cast(kind, said):
    model = {"a": torch.ones(2), "b": torch.ones(2), "count": torch.ones(1, dtype=torch.int64)}
    given = {"a": torch.ones(2, dtype=kind), "b": torch.ones(2), "other": torch.ones(2, dtype=kind)}
    assert other_kinds(model, given) == [f"a holds {said}"]
    assert other_kinds(model, {"count": torch.ones(1)}) != []


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_precisions_are_one_kind(kind):
    assert other_kinds({"a": torch.ones(2)}, {"a": torch.ones(2, dtype=kind)}) == []
    assert other_kinds({"a": torch.ones(2, dtype=kind)}, {"a": torch.ones(2)}) == []
