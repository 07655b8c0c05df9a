"""tools/predict.py: pictures, COCO json and a table, and what it refuses."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from svit_det.cli.predict import say
from svit_det.weights.files import write_weights


@pytest.fixture
def weights(tiny_config, tiny_model, tmp_path):
    """An untrained SViT that carries its config."""
    path = tmp_path / "svit.pth"
    said = {"config": tiny_config().dump(), "classes": ["red", "green"]}
    write_weights(tiny_model().state_dict(), path, description=said)
    return path


@pytest.fixture
def pictures(discs, tmp_path):
    """Two pictures and a corrupt one."""
    folder = tmp_path / "given"
    folder.mkdir()
    for name in ("a", "c"):
        (folder / f"{name}.png").write_bytes((discs / "images/val_1.png").read_bytes())
    (folder / "b.png").write_bytes(b"no picture")
    return folder


def test_the_table_only_shows_a_name(tmp_path, capsys):
    row = {"name": "a\x1b[2J.png", "found": 1, "kept_share": 0.5, "trunk_gmacs": 1, "seconds": 1}
    say([row], [], tmp_path)
    said = capsys.readouterr().out
    assert r"a\x1b[2J.png" in said and "\x1b" not in said


def test_a_folder_with_a_corrupt_picture(fork_tool, weights, pictures, tmp_path):
    output = tmp_path / "out"
    run = fork_tool(
        *("predict.py", "--weights", weights, "--output", output, "--min-score", 0, "--json"),
        pictures,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    said = json.loads(run.stdout)
    assert [row["picture"] for row in said["pictures"]] == ["a.jpg", "c.jpg"]
    assert [each["name"] for each in said["unread"]] == [str(pictures / "b.png")]
    assert "1 of 3 pictures could not be used" in run.stderr
    assert sorted(p.name for p in output.iterdir()) == [
        *("a.jpg", "c.jpg", "coco.json", "results.json")
    ]
    coco = COCO(str(output / "coco.json"))
    assert [cat["name"] for cat in coco.cats.values()] == ["red", "green"]
    assert len(coco.anns) == sum(row["found"] for row in said["pictures"]) > 0
    assert set(coco.imgs) == {1, 2} == {each["image_id"] for each in coco.anns.values()}
    again = json.loads((output / "results.json").read_text())
    assert again["pictures"] == said["pictures"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "No picture is named"),
        (("--camera", 0), "say when to stop with --frames"),
        (("--camera", 99, "--frames", 1), "Camera 99: there is none"),
        (("https://example.org/a.png",), "a file is wanted, not a URL"),
        (("nowhere/*.png",), "no file matches this pattern"),
        (("nowhere.png",), "no such image"),
        (("--min-score", 2, "x.png"), "--min-score 2 must lie in"),
        (("--output", "/proc/nowhere", "x.png"), "cannot be written"),
    ],
    ids=str,
)
def test_what_is_refused(refused, weights, arguments, message):
    assert message in refused("predict.py", "--weights", weights, *arguments)


def test_all_that_is_missing_is_named_before_any_work(refused, pictures, tmp_path):
    (tmp_path / "bare").mkdir()
    given = (pictures / "a.png", "gone.png", tmp_path / "bare", "nowhere/*.png")
    said = refused("predict.py", "--weights", "gone.pth", *given)  # the weights are not looked at
    for each in ("gone.png: no such image", "bare: no images", "nowhere/*.png: no file matches"):
        assert each in said
    assert "gone.pth" not in said


def test_a_broken_film_among_pictures(fork_tool, weights, pictures, tmp_path):
    film, output = tmp_path / "broken.mp4", tmp_path / "out"
    film.write_bytes(b"no film")
    given = (pictures / "a.png", film, pictures / "c.png", pictures / "a.png")
    run = fork_tool("predict.py", "--weights", weights, "--output", output, *given)
    assert run.returncode == 0, run.stdout + run.stderr
    said = json.loads((output / "results.json").read_text())
    assert [row["picture"] for row in said["pictures"]] == ["a.jpg", "c.jpg"]  # each once
    assert [each["name"] for each in said["unread"]] == [str(film)]
    assert said["stopped"] is None
    assert len(COCO(str(output / "coco.json")).imgs) == 2


@pytest.fixture
def photos(discs, tmp_path):
    """A folder of one's own JPEGs, a.jpg and b.jpg."""
    folder = tmp_path / "photos"
    folder.mkdir()
    with Image.open(discs / "images/val_1.png") as picture:
        for name in ("a", "b"):
            picture.save(folder / f"{name}.jpg")
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("more", [(), ("--overwrite",)], ids=["", "overwrite"])
def test_ones_own_photographs_are_never_replaced(refused, photos, more):
    before = contents(photos)
    given = ("--weights", "gone.pth", "--output", photos, *more, photos)
    said = refused("predict.py", *given)  # before the weights are looked at
    assert f"--output {photos}: a.jpg is one of the files that are read" in said
    assert contents(photos) == before


def test_a_file_that_is_no_input_is_replaced_if_asked_for(
    fork_tool, refused, weights, photos, pictures, tmp_path
):
    output = photos
    given = ("--weights", weights, "--output", output, pictures / "a.png")
    before = contents(photos)
    assert "a.jpg is there already; give --overwrite" in refused("predict.py", *given)
    assert contents(photos) == before
    run = fork_tool("predict.py", "--overwrite", *given)
    assert run.returncode == 0, run.stdout + run.stderr
    after = contents(photos)
    assert after["a.jpg"] != before["a.jpg"] and after["b.jpg"] == before["b.jpg"]


def test_a_frame_that_would_replace_a_file_stops_the_run(fork_tool, weights, tmp_path):
    """The names of a film's pictures are known only as they come."""
    film, output = tmp_path / "film.avi", tmp_path / "out"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for grey in (0, 90, 180):
        writer.write(np.full((48, 64, 3), grey, np.uint8))
    writer.release()
    output.mkdir()
    (output / "film.avi_000001.jpg").write_text("mine")
    run = fork_tool("predict.py", "--weights", weights, "--output", output, film)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert "film.avi_000001.jpg is there already; give --overwrite" in last
    assert (output / "film.avi_000001.jpg").read_text() == "mine"
    said = json.loads((output / "results.json").read_text())
    assert [row["picture"] for row in said["pictures"]] == ["film.avi_000000.jpg"]
    assert last.endswith(said["stopped"])
    assert len(COCO(str(output / "coco.json")).imgs) == 1


def test_a_folder_in_the_place_of_a_drawing_is_found_before_the_run(
    refused, weights, pictures, tmp_path
):
    output = tmp_path / "out"
    (output / "c.jpg").mkdir(parents=True)
    given = ("--weights", weights, "--output", output, "--overwrite", pictures)
    assert "c.jpg is no file, and is not replaced" in refused("predict.py", *given)
    assert [path.name for path in output.iterdir()] == ["c.jpg"]


def test_results_that_are_there_are_kept(refused, weights, pictures, tmp_path):
    (tmp_path / "results.json").write_text("mine")
    said = refused("predict.py", "--weights", weights, "--output", tmp_path, pictures)
    assert "results.json is there already; give --overwrite" in said
    assert (tmp_path / "results.json").read_text() == "mine"


def test_a_folder_of_nothing_but_broken_pictures(refused, weights, tmp_path):
    (tmp_path / "b.png").write_bytes(b"no picture")
    said = refused(
        "predict.py", "--weights", weights, "--output", tmp_path / "o", tmp_path / "b.png"
    )
    assert "b.png: not an image file" in said
    assert not (tmp_path / "o").exists()


def test_weights_without_a_config_say_so(refused, tiny_model, pictures, tmp_path):
    write_weights(tiny_model().state_dict(), tmp_path / "bare.pth")
    said = refused("predict.py", "--weights", tmp_path / "bare.pth", pictures)
    assert "carries no config; give --config-file" in said
