"""tools/visualize_tokens.py: pictures for files and folders, and what it refuses."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from svit_det.cli.visualize_tokens import Done, finish
from svit_det.detection import read_trained
from svit_det.detection.description import describe_run
from svit_det.weights.files import write_weights


@pytest.fixture
def weights(tiny_model, tmp_path):
    """An untrained SViT, as a model ships."""
    path = tmp_path / "svit.safetensors"
    save_file({n: v.contiguous() for n, v in tiny_model().state_dict().items()}, path)
    return path


@pytest.fixture
def arguments(tiny_yaml, weights, tmp_path):
    """Factory: a command line with these inputs; keywords replace its other parts."""

    def make(*inputs, config=tiny_yaml, weights=weights, output=tmp_path / "pictures"):
        parts = ["--config-file", config, "--weights", weights, "--output", output]
        return [*parts, "--min-score", 0.0, *inputs]

    return make


def written(folder):
    """Sizes (width, height) of the pictures in a folder, each opened to the end."""
    sizes = {}
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert image.mode == "RGB"
            sizes[path.name] = image.size
    return sizes


def test_the_table_only_shows_a_name(tmp_path, capsys):
    prediction = SimpleNamespace(kept_shares=np.ones(3), found=lambda score: [])
    done = Done()
    done.add(Path("a\x1b[2J.png"), prediction, "a", 0.5)
    finish(done, tmp_path, 1)
    said = capsys.readouterr().out
    assert r"a\x1b[2J.png" in said and "\x1b" not in said


def test_a_file_as_a_user_does_it(run_tool, arguments, discs, tmp_path):
    run = run_tool("visualize_tokens.py", *arguments(discs / "images/val_1.png"))
    assert run.returncode == 0, run.stdout + run.stderr
    sizes = written(tmp_path / "pictures")
    assert set(sizes) == {"val_1_detections_heatmap.png", "val_1_keep_maps.png"}
    assert all(width >= 512 for width, _ in sizes.values())
    # Nothing but the progress bar on the other stream.
    assert "Warning" not in run.stderr and "images: 100%" in run.stderr

    usage = json.loads((tmp_path / "pictures/token_usage.json").read_text())
    (image,) = usage.values()
    assert list(usage) == [str(discs / "images/val_1.png")]
    assert image["pictures"] == "val_1"
    shares = image["kept_share_per_block"]
    assert len(shares) == 3 and shares[0] == 1.0
    # 48 x 72 pixels are seen as 64 x 96: 8 x 12 tokens.
    assert all((share * 96) == pytest.approx(round(share * 96)) for share in shares)
    row = next(line.split() for line in run.stdout.splitlines() if "val_1.png" in line)
    percent = [100 * share for share in shares]
    assert [float(cell) for cell in row[2:]] == pytest.approx(
        [sum(percent) / 3, *percent], abs=0.51
    )


def test_ground_truth_jpeg_and_the_full_scale(fork_tool, arguments, discs, tmp_path):
    image = discs / "images/val_1.png"
    options = ["--annotations", discs / "val.json", "--format", "jpg", "--full-scale"]
    run = fork_tool("visualize_tokens.py", *options, *arguments(image))
    assert run.returncode == 0, run.stdout + run.stderr
    sizes = {}
    for name in ("detections_heatmap", "keep_maps"):
        with Image.open(tmp_path / f"pictures/val_1_{name}.jpg") as picture:
            sizes[name] = picture.size
    # Annotations, detections and heat map, of 720 pixels each.
    assert sizes["detections_heatmap"][0] > 3 * 720


def test_annotations_that_are_none(refused, arguments, discs, tmp_path):
    (tmp_path / "list.json").write_text("[]")
    content = json.loads((discs / "val.json").read_text())
    content["annotations"][0]["category_id"] = 9
    (tmp_path / "nine.json").write_text(json.dumps(content))
    for name, words in (
        ("gone.json", "cannot be read"),
        ("list.json", "not a COCO instance"),
        ("nine.json", "1 of 7 annotations cannot be used: 1 annotation of a category that is not"),
    ):
        options = ["--annotations", tmp_path / name, *arguments(discs / "images/val_0.png")]
        assert f"{name}: {words}" in refused("visualize_tokens.py", *options)


def test_the_probe_also_draws_what_the_class_token_looks_at(
    fork_tool, arguments, tiny_model, discs, tmp_path
):
    policy = ("MODEL.TOKEN_POLICY.NAME", "AttentionProbe")
    probe = {n: v.contiguous() for n, v in tiny_model(*policy).state_dict().items()}
    save_file(probe, tmp_path / "probe.safetensors")
    parts = arguments(discs / "images/val_1.png", weights=tmp_path / "probe.safetensors")
    run = fork_tool("visualize_tokens.py", *parts, *policy)
    assert run.returncode == 0, run.stdout + run.stderr
    assert set(written(tmp_path / "pictures")) == {
        f"val_1_{name}.png" for name in ("attention", "detections_heatmap", "keep_maps")
    }


def test_attention_of_a_class_token_that_is_not_there(refused, arguments, discs, tmp_path):
    given = arguments(discs / "images/val_1.png")
    said = refused("visualize_tokens.py", *given, "MODEL.TOKEN_POLICY.NAME", "AttentionProbe")
    assert "has no class token, whose attention would be drawn" in said
    assert not (tmp_path / "pictures").exists()


def test_folders_files_of_one_name_and_odd_images(fork_tool, arguments, tmp_path):
    """A folder's images in every mode, no other files; each once, under a name of its own."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(first / "cell.png")
    Image.fromarray(pixels[..., 0]).save(first / "grey.TIF", "tiff")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 99).save(first / "wide.tif")
    Image.fromarray(pixels[..., :3]).save(second / "cell.jpg")
    Image.fromarray(pixels[:1, :1, :3]).save(second / "dot.png")
    Image.new("RGB", (3000, 2), (200, 0, 0)).save(second / "line.png")
    (first / "notes.txt").write_text("not an image")
    (first / "folder.png").mkdir()
    run = fork_tool("visualize_tokens.py", *arguments(first, second / "cell.jpg", second))
    assert run.returncode == 0, run.stdout + run.stderr
    usage = json.loads((tmp_path / "pictures/token_usage.json").read_text())
    names = {str(path): image["pictures"] for path, image in usage.items()}
    assert sorted(names) == [
        str(first / "cell.png"),
        str(first / "grey.TIF"),
        str(first / "wide.tif"),
        str(second / "cell.jpg"),
        str(second / "dot.png"),
        str(second / "line.png"),
    ]
    assert names[str(first / "cell.png")] == "cell" and names[str(second / "cell.jpg")] == "cell_2"
    kinds = ("detections_heatmap", "keep_maps")
    expected = {f"{stem}_{kind}.png" for stem in names.values() for kind in kinds}
    assert set(written(tmp_path / "pictures")) == expected and len(expected) == 12


def test_overrides(fork_tool, arguments, discs, tmp_path):
    image = discs / "images/val_0.png"
    budget = ["MODEL.TOKEN_POLICY.TEST_KEEP_RATIO", 1.0]
    # The pictures as they were given before there was `svit-det`, and in front of other options.
    options = ["--input", image, *arguments()[:-2], "--min-score", 0.9, *budget]
    run = fork_tool("visualize_tokens.py", *options)
    assert run.returncode == 0, run.stdout + run.stderr
    usage = json.loads((tmp_path / "pictures/token_usage.json").read_text())
    assert usage[str(image)]["kept_share_per_block"] == [1.0, 1.0, 1.0]


# ------------------------------------------------------------------ refused


@pytest.fixture
def says(refused, arguments, discs):
    """Factory: the sentence about this input, or a good one."""

    def call(*inputs, **replaced):
        inputs = inputs or (discs / "images/val_0.png",)
        return refused("visualize_tokens.py", *arguments(*inputs, **replaced))

    return call


def test_inputs_that_are_not_there(says, tmp_path):
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'}: no images" in says(tmp_path / "empty")
    assert f"{tmp_path / 'gone.png'}: no such image" in says(tmp_path / "gone.png")


def test_corrupt_image(fork_tool, arguments, discs, tmp_path):
    whole = (discs / "images/val_0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    run = fork_tool("visualize_tokens.py", *arguments(tmp_path / "cut.png"))
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith(f"visualize_tokens.py: {tmp_path / 'cut.png'}: the image cannot")
    assert "Traceback" not in run.stderr


def test_weights(says, tiny_model, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file(tiny_model("MODEL.VIT.EMBED_DIM", 48).state_dict(), other)
    assert "another architecture" in says(weights=other)
    assert "gone.pth: no such file" in says(weights=tmp_path / "gone.pth")
    (tmp_path / "text.pth").write_text("no weights")
    assert "text.pth: not a file of plain weights" in says(weights=tmp_path / "text.pth")


def test_output_that_cannot_be_written(says, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        sentence = says(output=folder)
        assert f"--output {folder}" in sentence and "cannot be written" in sentence


@pytest.mark.parametrize("name", ["val_0_keep_maps.png", "token_usage.json"])
def test_a_file_that_cannot_be_written(fork_tool, arguments, discs, tmp_path, name):
    (tmp_path / "pictures" / name).mkdir(parents=True)
    given = arguments(discs / "images/val_0.png")
    run = fork_tool("visualize_tokens.py", "--overwrite", *given)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith("visualize_tokens.py: ") and name in last
    assert "Traceback" not in run.stderr


def test_config(says, refused, arguments, discs, tmp_path):
    assert "gone.yaml" in says(config=tmp_path / "gone.yaml")
    image = discs / "images/val_0.png"
    wrong = [*arguments(image), "MODEL.VIT.DEPHT", 3]
    assert "'MODEL.VIT.DEPTH'" in refused("visualize_tokens.py", *wrong)
    alone = [*arguments(image), "MODEL.VIT.DEPTH"]
    assert "'MODEL.VIT.DEPTH' stands alone" in refused("visualize_tokens.py", *alone)


def test_results_that_are_there_are_replaced_if_asked_for(
    fork_tool, says, arguments, discs, tmp_path
):
    """And only then; a second run over the same pictures leaves the same files."""
    given = arguments(shutil.copy(discs / "images/val_0.png", tmp_path / "again.png"))
    first = fork_tool("visualize_tokens.py", *given)
    assert first.returncode == 0, first.stdout + first.stderr
    said = says(tmp_path / "again.png")
    assert "token_usage.json is there already; give --overwrite" in said
    again = fork_tool("visualize_tokens.py", "--overwrite", *given)
    assert again.returncode == 0, again.stdout + again.stderr
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "again_detections_heatmap.png",
        "again_keep_maps.png",
        "token_usage.json",
    ]


@pytest.mark.parametrize("kind", ["keep_maps", "attention"])
def test_no_drawing_of_an_earlier_run_is_replaced_in_silence(says, tmp_path, kind):
    (tmp_path / "pictures").mkdir()
    old = tmp_path / f"pictures/val_0_{kind}.png"
    old.write_text("mine")
    assert f"val_0_{kind}.png is there already; give --overwrite" in says()
    assert old.read_text() == "mine"


def test_an_input_is_never_replaced(refused, arguments, discs, tmp_path):
    """Neither a picture nor the annotations."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    picture = shutil.copy(discs / "images/val_0.png", folder / "cell_keep_maps.png")
    other = shutil.copy(discs / "images/val_1.png", folder / "cell.png")
    annotations = shutil.copy(discs / "val.json", folder / "token_usage.json")
    before = [Path(path).read_bytes() for path in (picture, other, annotations)]
    said = refused("visualize_tokens.py", "--overwrite", *arguments(other, picture))
    assert "cell_keep_maps.png is one of the files that are read" in said
    more = ["--overwrite", "--annotations", annotations]
    said = refused("visualize_tokens.py", *more, *arguments(other))
    assert "token_usage.json is one of the files that are read" in said
    assert [Path(path).read_bytes() for path in (picture, other, annotations)] == before


def test_a_run_that_must_stop_writes_the_numbers_so_far(fork_tool, arguments, discs, tmp_path):
    # A name of a drawing has room for 255 bytes.
    second = shutil.copy(discs / "images/val_1.png", tmp_path / f"{'b' * 245}.png")
    run = fork_tool("visualize_tokens.py", *arguments(discs / "images/val_0.png", second))
    assert run.returncode == 1
    assert ".png: cannot be written" in run.stderr.splitlines()[-1]
    usage = json.loads((tmp_path / "pictures/token_usage.json").read_text())
    assert list(usage) == [str(discs / "images/val_0.png")]


# ------------------------------------------------------------------ weights know their config


@pytest.fixture
def described(tiny_config, tiny_model, tmp_path):
    """Weights that carry their config and the names of their classes."""
    path = tmp_path / "described.safetensors"
    state = {n: v.contiguous() for n, v in tiny_model().state_dict().items()}
    said = {**describe_run(tiny_config()), "classes": ["cherry", "blueberry"]}
    write_weights(state, path, description=said)
    return path


def test_weights_and_a_picture_are_enough(fork_tool, described, discs, tmp_path):
    """And under --json stdout is one document, which says what was found."""
    given = ("--weights", described, "--output", tmp_path / "out", discs / "images/val_0.png")
    run = fork_tool("visualize_tokens.py", "--json", "--min-score", 0.0, *given)
    assert run.returncode == 0, run.stdout + run.stderr
    result = json.loads(run.stdout)
    assert result["output"] == str(tmp_path / "out")
    assert list(result["pictures"]) == [str(discs / "images/val_0.png")]
    assert "Tokens kept in percent" in run.stderr
    assert set(written(tmp_path / "out")) == {
        "val_0_detections_heatmap.png",
        "val_0_keep_maps.png",
    }


def test_class_names_come_with_the_weights_or_from_the_own_set(described, weights, tiny_yaml):
    assert read_trained(described).class_names == ["cherry", "blueberry"]
    assert read_trained(weights, config_file=str(tiny_yaml)).class_names == ["red", "blue"]


def test_weights_that_say_nothing(refused, weights, discs, tmp_path):
    given = ("--output", tmp_path / "out", discs / "images/val_0.png")
    said = refused("visualize_tokens.py", "--weights", weights, *given)
    assert "carries no config; give --config-file" in said
    refusal = refused("visualize_tokens.py", "--json", "--weights", weights, *given)
    assert refusal == said
    nothing = refused("visualize_tokens.py", *given)
    assert "give --weights" in nothing


def test_a_url_is_no_file(refused, says, discs, tmp_path):
    assert "not a URL; download it first" in says(weights="https://example.org/svit.pth")
    assert "not a URL; download it first" in says("https://example.org/cat.jpg")


def test_the_config_may_name_its_weights(fork_tool, weights, tiny_yaml, discs, tmp_path):
    path = tmp_path / "named.yaml"
    text = f'_BASE_: "{tiny_yaml.as_posix()}"\nTEST: {{WEIGHTS: "{weights.as_posix()}"}}\n'
    path.write_text(text)
    given = ("--config-file", path, "--output", tmp_path / "out", discs / "images/val_0.png")
    run = fork_tool("visualize_tokens.py", *given)
    assert run.returncode == 0, run.stdout + run.stderr


OWN_POLICY = """
from dataclasses import dataclass
from svit_det.policies.base import PolicyConfig, TokenPolicy
from svit_det.policies.ranking import keep_top
from svit_det.policies.registry import POLICY_REGISTRY
from svit_det.settings import setting
from svit_det.tokens import Selection

@POLICY_REGISTRY.register()
class LargestNorm(TokenPolicy):
    @dataclass(frozen=True, kw_only=True)
    class Config(PolicyConfig):
        node = "LARGEST_NORM"
        share: float = setting(0.5, "Share that each block keeps.", interval="(0, 1]")

    def __init__(self, *, config, shape):
        super().__init__()
        self.share = config.share

    def before_block(self, view, state):
        score = state.patches.norm(dim=-1)
        return state, Selection(keep=keep_top(score, int(self.share * state.num_patches)))
"""


def test_a_policy_that_lives_elsewhere(tiny_config, tiny_model, discs, tmp_path):
    """In a module of the current folder, with a key of its own."""
    (tmp_path / "own_policies.py").write_text(OWN_POLICY)
    dense = ("MODEL.TOKEN_POLICY.NAME", "Dense")
    state = {n: v.contiguous() for n, v in tiny_model(*dense).state_dict().items()}
    write_weights(state, tmp_path / "d.safetensors", description=describe_run(tiny_config(*dense)))
    command = [sys.executable, "-m", "svit_det", "visualize", "--json", "--import", "own_policies"]
    command += ["--weights", "d.safetensors", "--output", "out", str(discs / "images/val_0.png")]
    command += ["MODEL.TOKEN_POLICY.NAME", "LargestNorm"]
    command += ["MODEL.TOKEN_POLICY.LARGEST_NORM.SHARE", "0.25"]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (picture,) = json.loads(run.stdout)["pictures"].values()
    assert picture["kept_share_per_block"] == [0.25, 0.25, 0.25]
