"""tools/figures.py: each figure of a tiny model, and what it refuses."""

import shutil

import pytest
from PIL import Image
from safetensors.torch import save_file

PROBE = ("MODEL.TOKEN_POLICY.NAME", "AttentionProbe")


@pytest.fixture
def weights(tiny_model, tmp_path):
    """Factory: a file of untrained weights under overrides."""

    def make(name, *options):
        state = {n: v.contiguous() for n, v in tiny_model(*options).state_dict().items()}
        save_file(state, tmp_path / name)
        return tmp_path / name

    return make


def test_each_figure(run_tool, fork_tool, weights, tiny_yaml, discs, tmp_path):
    svit, probe = weights("svit.safetensors"), weights("probe.safetensors", *PROBE)
    images = [discs / f"images/val_{n}.png" for n in range(3)]
    rest = ["--min-score", 0.0, "--allow-untrained", "--output"]
    two, three, four = (tmp_path / f"{n}.png" for n in (2, 3, 4))
    lines = {
        two: [
            "--figure",
            "2",
            "--config-file",
            tiny_yaml,
            "--weights",
            probe,
            "--input",
            images[0],
        ],
        three: [
            "--figure",
            "3",
            "--config-file",
            *[tiny_yaml] * 2,
            "--weights",
            svit,
            svit,
            "--input",
            images[0],
        ],
        four: ["--figure", "4", "--config-file", tiny_yaml, "--weights", svit, "--input", *images],
    }
    for path, line in lines.items():
        run = (run_tool if path is four else fork_tool)("figures.py", *line, *rest, path)
        assert run.returncode == 0, run.stdout + run.stderr
        with Image.open(path) as figure:
            assert 300 < figure.width < 2500


def test_what_is_refused(refused, weights, tiny_yaml, discs, tmp_path):
    svit, image = weights("svit.safetensors"), discs / "images/val_0.png"
    (tmp_path / "there.png").touch()

    def says(figure, *, config=tiny_yaml, models=1, given=(image,), output=tmp_path / "f.png"):
        given = [*given, "--overwrite"] if output in given else given
        parts = [
            "--figure",
            figure,
            "--config-file",
            *[config] * models,
            "--weights",
            *[svit] * models,
        ]
        return refused("figures.py", *parts, "--input", *given, "--output", output)

    assert "has no class token" in says("2")
    assert "2 models; figure 4 takes 1" in says("4", models=2)
    assert "2 pictures; figure 3 takes 1" in says("3", given=(image, discs / "images/val_1.png"))
    assert "give --overwrite" in says("4", output=tmp_path / "there.png")
    assert "name a .png" in says("4", output=tmp_path / "f.pdf")
    own = shutil.copy(image, tmp_path / "own.png")
    assert "own.png: is one of the files that are read" in says("4", given=(own,), output=own)
    assert own.read_bytes() == image.read_bytes()
