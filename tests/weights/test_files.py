"""Writing weights: whole or not at all, readable by others."""

import pytest
import torch
from safetensors.torch import load_file

from svit_det.errors import InputError
from svit_det.weights.files import write_weights

WEIGHTS = {"a.b": torch.arange(3.0)}


def test_both_kinds_of_file(tmp_path):
    write_weights(WEIGHTS, tmp_path / "new" / "w.safetensors")
    write_weights(WEIGHTS, tmp_path / "new" / "w.pth")
    assert torch.equal(load_file(tmp_path / "new/w.safetensors")["a.b"], WEIGHTS["a.b"])
    loaded = torch.load(tmp_path / "new/w.pth", weights_only=True)
    assert torch.equal(loaded["model"]["a.b"], WEIGHTS["a.b"])
    assert (tmp_path / "new/w.safetensors").stat().st_mode & 0o777 == 0o644
    assert len(list((tmp_path / "new").iterdir())) == 2


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_is_in_the_way_stays(tmp_path, suffix):
    to = tmp_path / f"w{suffix}"
    to.mkdir()
    with pytest.raises(InputError, match=f"w{suffix}: cannot be written"):
        write_weights(WEIGHTS, to)
    assert [path.name for path in tmp_path.iterdir()] == [to.name]
