"""tools/report.py: a set, two models, own images, and what it refuses."""

import json
import shutil

import pytest
from safetensors.torch import save_file


@pytest.fixture
def weights(tiny_model, tmp_path):
    """An untrained SViT, as a model ships."""
    path = tmp_path / "svit.safetensors"
    save_file({n: v.contiguous() for n, v in tiny_model().state_dict().items()}, path)
    return path


@pytest.fixture
def arguments(tiny_yaml, weights, tmp_path):
    """Factory: a command line for one model or more."""

    def make(*more, models=1, output=tmp_path / "page/report.html"):
        parts = ["--config-file", *[tiny_yaml] * models, "--weights", *[weights] * models]
        parts += ["--output", output, "--min-score", 0.0, "--allow-untrained"]
        return [*parts, *more]

    return make


def test_the_test_set_of_a_config(run_tool, arguments, tmp_path):
    run = run_tool("report.py", *arguments(models=2))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Warning" not in run.stderr
    page = (tmp_path / "page/report.html").read_text()
    assert "tiny (1)" in page and "tiny (2)" in page and "val_0.png" in page
    one, other = json.loads((tmp_path / "page/report.json").read_text())["arms"]
    assert one["label"] == "tiny (1)" and one["object_source"] == "annotations"
    assert len(one["kept_share_per_block"]) == 3 and one["kept_share_per_block"][0] == 1
    assert one["kept_share_per_block"] == other["kept_share_per_block"]
    assert [row["name"] for row in one["pictures"]] == [f"val_{n}.png" for n in range(4)]
    assert one["pictures"][3]["on_annotated"] is None  # it has no object
    assert {"red", "blue"} == set(one["kept_share_by_class"])


def test_own_images_a_few_of_them_again(fork_tool, arguments, discs, tmp_path):
    more = ["--limit", 3, "--shown", 2, "--title", "<b>", discs / "images"]
    for extra in ([], ["--overwrite"]):
        run = fork_tool("report.py", *arguments(*extra, *more))
        assert run.returncode == 0, run.stdout + run.stderr
    page = (tmp_path / "page/report.html").read_text()
    assert page.count("<article") == 2 and "<h1>&lt;b&gt;</h1>" in page
    assert "3 pictures (the given images, 3 of" in page
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == [
        "report.html",
        "report.json",
    ]


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_done(
    fork_tool, arguments, discs, tmp_path
):
    """And leaves its place on the page to the next one."""
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no picture")
    for name in ("b", "c"):
        (folder / f"{name}.png").write_bytes((discs / "images/val_1.png").read_bytes())
    run = fork_tool("report.py", *arguments("--shown", 1, folder, models=2))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 of 3 pictures could not be used:" in run.stdout
    numbers = json.loads((tmp_path / "page/report.json").read_text())
    for arm in numbers["arms"]:
        assert [row["name"] for row in arm["pictures"]] == ["b.png", "c.png"]
    ((unread, reason),) = [each.values() for each in numbers["unread"]]
    assert unread == str(folder / "a.png") and "not an image file" in reason
    page = (tmp_path / "page/report.html").read_text()
    assert "over 2 pictures" in page and "1 of 3 pictures could not be used: a.png." in page
    assert page.count("<article") == 1

    said = fork_tool("report.py", *arguments("--overwrite", folder / "a.png"))
    assert said.returncode == 1
    assert said.stderr.splitlines()[-1].startswith(f"report.py: {folder / 'a.png'}: not an image")


def test_what_is_refused(refused, arguments, discs, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "there.html").touch()

    def says(*more, **options):
        return refused("report.py", *arguments(*more, **options))

    assert "empty: no images" in says(tmp_path / "empty")
    assert "give --overwrite" in says(output=tmp_path / "there.html")
    assert "name a .html" in says(output=tmp_path / "report.pdf")
    assert "may be written to" in says(output=tmp_path / "file/report.html")
    assert "two to stand side by side" in says(models=3)
    assert "--label: 1 given for 2" in says("--label", "a", models=2)
    assert "--shown 0" in says("--shown", 0)
    assert "--limit 0" in says("--limit", 0)
    assert "not a json file" in says("--annotations", tmp_path / "file")
    content = json.loads((discs / "val.json").read_text())
    content["annotations"][0].pop("bbox")
    (tmp_path / "own.json").write_text(json.dumps(content))
    said = says("--annotations", tmp_path / "own.json")
    assert "own.json: 1 of 7 annotations cannot be used: 1 annotation without 'bbox'" in said
    own = f"[['own', '{tmp_path.as_posix()}/own.json', '{discs.as_posix()}/images']]"
    of_own_set = ["DATASETS.COCO_FORMAT", own, "DATASETS.TEST", "('own',)"]
    assert "1 annotation without 'bbox'" in says(*of_own_set, "DATASETS.TRAIN", "()")
    assert not (tmp_path / "page").exists()
    shutil.copy(discs / "val.json", tmp_path / "own.json")
    given = ["--overwrite", "--annotations", tmp_path / "own.json"]
    said = says(*given, output=tmp_path / "own.html")
    assert "own.json, which is written too, is one of the files that are read" in said
    assert (tmp_path / "own.json").read_bytes() == (discs / "val.json").read_bytes()
