"""tools/visualize_tokens.py: pictures for files and folders, and what it refuses."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file


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
        return [*parts, "--min-score", 0.0, "--input", *inputs]

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
    for name, words in (("gone.json", "cannot be read"), ("list.json", "not a COCO instance")):
        options = ["--annotations", tmp_path / name, *arguments(discs / "images/val_0.png")]
        assert f"{name}: {words}" in refused("visualize_tokens.py", *options)


def test_the_probe_also_draws_what_the_class_token_looks_at(
    fork_tool, arguments, tiny_model, discs, tmp_path
):
    policy = ("MODEL.TOKEN_POLICY.NAME", "AttentionProbe")
    probe = {n: v.contiguous() for n, v in tiny_model(*policy).state_dict().items()}
    save_file(probe, tmp_path / "probe.safetensors")
    parts = arguments(discs / "images/val_1.png", weights=tmp_path / "probe.safetensors")
    run = fork_tool("visualize_tokens.py", *parts[-2:], *parts[:-2], *policy)
    assert run.returncode == 0, run.stdout + run.stderr
    assert set(written(tmp_path / "pictures")) == {
        f"val_1_{name}.png" for name in ("attention", "detections_heatmap", "keep_maps")
    }


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
    options = [*arguments(image)[:-2], "--input", image, "--min-score", 0.9, *budget]
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
    run = fork_tool("visualize_tokens.py", *arguments(discs / "images/val_0.png"))
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith("visualize_tokens.py: ") and name in last
    assert "Traceback" not in run.stderr


def test_config(says, refused, arguments, discs, tmp_path):
    assert "gone.yaml" in says(config=tmp_path / "gone.yaml")
    image = discs / "images/val_0.png"
    wrong = [*arguments(image), "--min-score", 0.5, "MODEL.VIT.DEPHT", 3]
    assert "'MODEL.VIT.DEPTH'" in refused("visualize_tokens.py", *wrong)
    alone = [*arguments(image), "--min-score", 0.5, "MODEL.VIT.DEPTH"]
    assert "'MODEL.VIT.DEPTH' stands alone" in refused("visualize_tokens.py", *alone)


def test_pictures_are_replaced_not_added(fork_tool, arguments, discs, tmp_path):
    """A second run over the same folder leaves the same files."""
    shutil.copy(discs / "images/val_0.png", tmp_path / "again.png")
    for _ in range(2):
        run = fork_tool("visualize_tokens.py", *arguments(tmp_path / "again.png"))
        assert run.returncode == 0, run.stdout + run.stderr
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "again_detections_heatmap.png",
        "again_keep_maps.png",
        "token_usage.json",
    ]
