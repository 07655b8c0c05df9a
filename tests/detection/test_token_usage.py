"""TokenUsageEvaluator on two pictures that are small enough to count by hand.

Patches of 8 pixels, 2 blocks. Picture 1 has 32 x 48 pixels and is seen at half its size: 2 x 3
tokens. Picture 2 has 12 x 8 pixels, seen as they are: 2 x 1 tokens, of which the lower one sticks
out and has only 4 of its 8 rows.

    picture 1   annotated   predicted   block 0   block 1
                # # .       . # #       # # #     . # .
                # # .       . # #       # # #     . # #
    picture 2   .           .           #         #
                #           .           #         .
"""

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from detectron2.utils import comm

from svit_det.detection.token_usage import TokenUsageEvaluator
from svit_det.errors import InputError
from svit_det.tokens.usage import overlaps, returning

T, F = True, False


@pytest.fixture
def data_set(tmp_path, rle_of):
    """The two pictures' annotations, in a json that detectron2 knows the place of."""
    rows_nine_to_eleven = np.zeros((12, 8), bool)
    rows_nine_to_eleven[9:] = True
    # A quarter of the third column's tokens: not enough to be inside.
    left_two_thirds_and_a_bit = [0, 0, 36, 0, 36, 32, 0, 32]
    annotations = [
        {"id": 1, "image_id": 1, "iscrowd": 0, "segmentation": [left_two_thirds_and_a_bit]},
        {"id": 2, "image_id": 2, "iscrowd": 1, "segmentation": rle_of(rows_nine_to_eleven)},
        {"id": 3, "image_id": 2, "iscrowd": 0, "segmentation": []},
    ]
    images = [
        {"id": 1, "file_name": "NaN 1.png", "height": 32, "width": 48},
        {"id": 2, "file_name": "2.png", "height": 12, "width": 8},
    ]
    for annotation in annotations:
        annotation |= {"category_id": 1, "bbox": [0, 0, 1, 1], "area": 1}
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "two.json").write_text(json.dumps(content))
    MetadataCatalog.get("two_pictures").json_file = str(tmp_path / "two.json")
    return images


def instances(height, width, scored_columns):
    """One instance for each (score, first column): all from that column on."""
    found = Instances((height, width))
    masks = torch.zeros(len(scored_columns), height, width, dtype=torch.bool)
    for mask, (_, column) in zip(masks, scored_columns):
        mask[:, column:] = True
    found.pred_masks = masks
    found.scores = torch.tensor([score for score, _ in scored_columns])
    return found


@pytest.fixture
def pictures(data_set):
    """The model's inputs and outputs for both."""
    seen = [torch.zeros(3, 16, 24), torch.zeros(3, 12, 8)]
    inputs = [
        image | {"image_id": image["id"], "image": pixels} for image, pixels in zip(data_set, seen)
    ]
    outputs = [
        {
            "token_usage": torch.tensor([[[T, T, T], [T, T, T]], [[F, T, F], [F, T, T]]]),
            "instances": instances(32, 48, [(0.9, 16), (0.49, 0)]),
            "trunk_macs": (3 * 10**9, 8 * 10**9),
        },
        {
            "token_usage": torch.tensor([[[T], [T]], [[T], [F]]]),
            "instances": instances(12, 8, [(0.3, 0)]),
            "trunk_macs": (2 * 10**9, 4 * 10**9),
        },
    ]
    return inputs, outputs


@pytest.fixture
def evaluator(data_set, tmp_path):
    return TokenUsageEvaluator("two_pictures", patch_size=8, output_dir=str(tmp_path / "out"))


SHARES = {  # by hand: of 8, 5, 3, 4 and 4 tokens
    "all": [1.0, 4 / 8],
    "inside_gt": [1.0, 2 / 5],
    "outside_gt": [1.0, 2 / 3],
    "inside_pred": [1.0, 3 / 4],
    "outside_pred": [1.0, 1 / 4],
}


def test_shares_by_hand(evaluator, pictures, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="svit_det"):
        evaluator.process(*pictures)
        results = evaluator.evaluate()
    means = {name: pytest.approx(50 * sum(shares)) for name, shares in SHARES.items()}
    assert results == {"token_usage": means}

    written = json.loads((tmp_path / "out" / "token_usage.json").read_text())
    assert (written["trunk_gmacs"], written["dense_trunk_gmacs"]) == (2.5, 6.0)
    assert "2.50 G, of 6.00 G dense" in caplog.text
    assert list(written["kept_share_per_block"]) == list(SHARES)
    for name, shares in SHARES.items():
        assert written["kept_share_per_block"][name] == pytest.approx(shares)
    assert written["overlap_with_block_before"] == [4 / 8]
    assert written["share_that_block_before_skipped"] == [0.0]
    first, second = written["images"]
    assert (first["image_id"], first["file_name"]) == (1, "NaN 1.png")
    assert first["inside_gt"] == {"tokens": 4, "kept": [4, 2]}
    assert first["outside_pred"] == {"tokens": 2, "kept": [2, 0]}
    assert second["all"] == {"tokens": 2, "kept": [2, 1]}
    assert second["inside_gt"] == {"tokens": 1, "kept": [1, 0]}
    assert second["inside_pred"] == {"tokens": 0, "kept": [0, 0]}

    table = [line.split() for line in caplog.text.splitlines()]
    assert ["0", *["100.0"] * 5] in table
    assert ["1", "50.0", "40.0", "66.7", "75.0", "25.0", "50.0"] in table
    assert ["mean", "75.0", "70.0", "83.3", "87.5", "62.5"] in table


def test_overlap_by_hand():
    """Of six tokens blocks 0, 1, 2 and 3 keep 1 2 3 4, then 3 4 5, the same again, then nobody."""
    counts = {"tokens": 6, "kept": [4, 3, 3, 0]}
    images = [{"all": counts, "kept_twice": [2, 3, 0]}]
    assert overlaps(images).tolist() == pytest.approx([2 / 5, 1.0, 0.0])
    # Over two images: tokens count, not images.
    other = {"all": {"tokens": 1, "kept": [1, 1, 0, 0]}, "kept_twice": [1, 0, 0]}
    assert overlaps([*images, other]).tolist() == pytest.approx([3 / 6, 3 / 4, 0.0])
    assert returning(images).tolist() == pytest.approx([1 / 3, 0.0, 0.0])
    nobody = [{"all": {"tokens": 2, "kept": [0, 0]}, "kept_twice": [0]}]
    assert overlaps(nobody).tolist() == [1.0]
    assert returning(nobody).tolist() == [0.0]


def test_one_by_one_is_the_same_and_reset_forgets(evaluator, pictures):
    evaluator.process(*pictures)
    evaluator.reset()
    for given, output in zip(*pictures):
        evaluator.process([given], [output])
    usage = evaluator.evaluate()["token_usage"]
    assert usage["inside_gt"] == pytest.approx(70.0)


def test_nothing_predicted_anywhere(evaluator, pictures, tmp_path):
    """A share of nothing does not exist: nan in the results, null in the file."""
    inputs, outputs = pictures
    for given, output in zip(inputs, outputs):
        output["instances"] = instances(given["height"], given["width"], [])
    evaluator.process(inputs, outputs)
    usage = evaluator.evaluate()["token_usage"]
    assert np.isnan(usage["inside_pred"])
    assert usage["outside_pred"] == usage["all"] == pytest.approx(75.0)
    text = (tmp_path / "out" / "token_usage.json").read_text()

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    written = json.loads(text, parse_constant=refuse)
    assert written["kept_share_per_block"]["inside_pred"] == [None, None]


def test_boxes_only_and_no_annotations(pictures):
    inputs, outputs = pictures
    for output in outputs:
        output["instances"].remove("pred_masks")
    MetadataCatalog.get("pictures_alone").thing_classes = ["a"]
    evaluator = TokenUsageEvaluator("pictures_alone", patch_size=8, output_dir=None)
    evaluator.process(inputs, outputs)
    assert evaluator.evaluate() == {"token_usage": {"all": pytest.approx(75.0)}}


def test_no_images(evaluator):
    assert evaluator.evaluate() == {"token_usage": {}}


def test_the_score_from_which_a_prediction_counts(data_set, pictures):
    evaluator = TokenUsageEvaluator("two_pictures", patch_size=8, output_dir=None, min_score=0.25)
    evaluator.process(*pictures)
    usage = evaluator.evaluate()["token_usage"]
    assert usage["inside_pred"] == pytest.approx(75.0)
    assert np.isnan(usage["outside_pred"])


def test_gathered_from_several_processes(evaluator, pictures, tmp_path, monkeypatch):
    """The main process counts what all have seen, the others say and write nothing."""
    inputs, outputs = pictures
    evaluator.process(inputs[:1], outputs[:1])
    other = TokenUsageEvaluator("two_pictures", patch_size=8, output_dir=str(tmp_path / "other"))
    other.process(inputs[1:], outputs[1:])
    monkeypatch.setattr(comm, "gather", lambda images: [images, other._images])
    assert evaluator.evaluate()["token_usage"]["outside_gt"] == pytest.approx(250 / 3)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert other.evaluate() is None
    assert not (tmp_path / "other").exists()


def test_padding_of_a_batch_is_not_counted(tiny_model, training_input):
    """50 x 77 pixels are 7 x 10 tokens, though the batch they were in has 8 x 10."""
    model = tiny_model().eval()
    batch = [training_input(64, 64, 1), training_input(50, 77, 1)]
    for given in batch:
        given["height"], given["width"] = given["image"].shape[-2:]
    MetadataCatalog.get("pictures_alone").thing_classes = ["a"]
    evaluator = TokenUsageEvaluator("pictures_alone", patch_size=8, output_dir=None)
    with torch.no_grad():
        evaluator.process(batch, model(batch))
    counts = [image["all"] for image in evaluator._images]
    assert [count["tokens"] for count in counts] == [64, 70]
    assert [count["kept"][0] for count in counts] == [64, 70]


def test_outputs_without_usage_are_named(evaluator, pictures):
    inputs, outputs = pictures
    del outputs[0]["token_usage"]
    with pytest.raises(InputError, match=r"TEST\.TOKEN_USAGE.*TokenRCNN"):
        evaluator.process(inputs, outputs)
