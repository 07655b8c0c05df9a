"""Arithmetic against closed forms, accuracy by hand, and the tables' layouts."""

import json

import pytest
import torch

from svit_det.classification.build import build_classifier
from svit_det.classification.config import load_config
from svit_det.classification.evaluation import Evaluation, evaluate, image_macs
from svit_det.classification.folder import read_split
from svit_det.classification.loading import val_loader
from svit_det.classification.processes import Processes
from svit_det.classification.tables import Row, table_1, table_2
from svit_det.cli import classifiers_in_turn
from svit_det.cli.classification_tables import main as tables
from svit_det.cli.train_classifier import main as train
from svit_det.vit.flops import count_macs

CONFIGS = "configs/imagenet"
# Giga multiply-adds at 224 x 224 with the head, by q, k, m rows in every block.
CLOSED_FORMS = {
    "deit_t": 1.254,
    "deit_s": 4.599,
    "svit_t": 0.79,
    "svit_s": 2.95,
    "evit_s": 3.03,
    "dynamic_vit_s": 2.98,
    "evo_vit_s": 3.03,
    "evo_vit_s_30ep": 3.03,
    "evo_vit_t": 0.82,
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_arithmetic_is_that_of_the_closed_form(name, root):
    """At the target schedule: SViT's targets as quotas, the others by their own fixed counts."""
    options = ["MODEL.TOKEN_POLICY.SVIT.MODE", "quota"] if name.startswith("svit") else []
    model = build_classifier(load_config(f"{root}/{CONFIGS}/{name}.yaml", options)).eval()
    with torch.no_grad():
        _, record = model(torch.randn(1, 3, 224, 224))
    spent, dense = image_macs(model, record)
    assert spent.item() / 1e9 == pytest.approx(CLOSED_FORMS[name], rel=0.02)
    assert dense / 1e9 == pytest.approx(4.599 if "_s" in name else 1.254, rel=0.001)


def test_arithmetic_is_what_really_runs(policy, classifier, images):
    """torch's own counter, over the whole classifier."""
    model = classifier(policy)
    batch = images(1, (5, 7))
    with torch.no_grad():
        _, record = model(batch)
        counted = count_macs(lambda: model(batch)).total
    assert image_macs(model, record)[0].item() == pytest.approx(counted, rel=0.01)


def test_accuracy_by_hand(a_yaml, small, generated_images):
    """A head that always says green: a third of the images; all three classes are among five."""
    cfg = load_config(a_yaml, small())
    model = build_classifier(cfg)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 1.0, 0.5]))
    images = read_split(generated_images, "val", num_classes=3)
    found = evaluate(model, val_loader(cfg, images, Processes()), images)
    assert (found.images, found.unreadable) == (12, 0)
    assert found.top1 == pytest.approx(100 / 3) and found.top5 == 100
    assert found.tokens_per_block == [16] * 12 and found.tokens == 16
    assert found.gmacs == found.dense_gmacs > 0 and found.images_per_second > 0


def test_the_first_batch_runs_once_before_it_is_timed(a_yaml, small, generated_images):
    """The first pass pays for the start of the device; each image counts once all the same."""
    cfg = load_config(a_yaml, small())
    model = build_classifier(cfg)
    seen = []
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = read_split(generated_images, "val", num_classes=3)
    assert evaluate(model, val_loader(cfg, images, Processes()), images).images == 12
    assert [len(pixels) for pixels in seen] == [5, 5, 5, 2]
    assert seen[0].equal(seen[1]) and not seen[1].equal(seen[2])


def test_processes_share_the_images_out(a_yaml, small, generated_images):
    cfg = load_config(a_yaml, small())
    images = read_split(generated_images, "val", num_classes=3)
    seen = [
        labels for rank in range(2) for _, labels, _ in val_loader(cfg, images, Processes(rank, 2))
    ]
    assert sorted(torch.cat(seen).tolist()) == [0] * 4 + [1] * 4 + [2] * 4


def found(top1, gmacs, speed):
    return Evaluation(10, 0, top1, 99.0, gmacs, 4.6, [196.0], 196, speed)


ROWS = [
    Row("DeiT-S", found(79.8, 4.6, 1524), 300, from_scratch=True),
    Row("SViT-S", found(79.4, 3.0, 2246), 30),
    Row("DynamicViT", found(79.3, 3.0, 2200), 30, distilled=True),
    Row("Evo-ViT", found(79.4, 3.0, 2200), 300, from_scratch=True),
]


def test_the_layout_of_table_1():
    assert "SViT-S   79.4              3.00      2246 (+47 %)" in table_1(ROWS[:2])
    assert "DeiT-S   79.8              4.60      1524" in table_1(ROWS[:2])


def test_the_layout_of_table_2():
    lines = [" ".join(line.split()) for line in table_2(ROWS).splitlines()]
    assert lines[2:6] == [
        "DeiT-S - 4.60 79.8",
        "SViT-S 30 3.00 79.4 (-0.4)",
        "DynamicViT ‡ 30 3.00 79.3 (-0.5)",
        "Evo-ViT 300 * 3.00 79.4 (-0.4)",
    ]


def test_the_command_evaluates_checkpoints_anew(a_yaml, small, tmp_path, capsys, monkeypatch):
    """The speeds are those of models that take turns."""
    monkeypatch.setattr(classifiers_in_turn, "speeds_of", lambda models: [200.0, 300.0])
    files = []
    for name in ("Dense", "EViT"):
        run = tmp_path / name
        options = small(MODEL__TOKEN_POLICY__NAME=name, SOLVER__EPOCHS=1, OUTPUT_DIR=run)
        assert train(["--config-file", a_yaml, *options]) is None
        files.append(f"{name.lower()}={run / 'model_final.pth'}")
    output = tmp_path / "tables.json"
    assert tables([*files, "--device", "cpu", "--output", str(output)]) is None
    said = capsys.readouterr().out
    assert "Layout of table 1" in said and "Layout of table 2" in said
    rows = json.loads(output.read_text())["rows"]
    assert [row["name"] for row in rows] == ["dense", "evit"]
    assert rows[1]["found"]["gmacs"] < rows[0]["found"]["gmacs"]
    assert rows[1]["found"]["images"] == 12
    assert [row["found"]["images_per_second"] for row in rows] == [200.0, 300.0]
    assert "300 (+50 %)" in said


def test_the_command_refuses_what_it_cannot_read(tmp_path, classifier):
    assert "no such file" in tables([str(tmp_path / "none.pth")])
    torch.save({"model": classifier().state_dict()}, tmp_path / "bare.pth")
    assert "does not say how it was trained" in tables([str(tmp_path / "bare.pth")])
