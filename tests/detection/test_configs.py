"""Every config that ships builds what its name says; a wrong one is refused in a sentence."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from svit_det.adapter import ViTAdapter
from svit_det.config.policy import token_policy_config
from svit_det.config.yaml_file import read_yaml
from svit_det.detection import load_config
from svit_det.errors import InputError
from svit_det.policies import POLICY_REGISTRY, WRAPPER_REGISTRY
from svit_det.policies.svit import SViT
from svit_det.policies.wrappers import PolicyWrapper, innermost
from svit_det.vit import PlainViT, find_token_net, record_passes

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
BASES = sorted((CONFIGS / "base").glob("*.yaml"))
CLASSIFICATION = {"imagenet", "digits", "photographs"}
MODELS = sorted(
    path
    for path in CONFIGS.rglob("*.yaml")
    if path.parent.name != "base" and not CLASSIFICATION & {*path.parts}
)
WRAPPERS = {name.lower(): name for name in WRAPPER_REGISTRY.names()}
WIDTHS = {"t": 192, "s": 384}


def named(path):
    return path.relative_to(CONFIGS).as_posix().removesuffix(".yaml")


def policy_of(path):
    """The registered name that words of the file name spell, as in plain_evo_vit_t; the others."""
    words = path.stem.split("_")
    spelt = {
        "".join(words[start:stop]): words[:start] + words[stop:]
        for start in range(len(words))
        for stop in range(start + 1, len(words) + 1)
    }
    (name,) = (each for each in POLICY_REGISTRY.names() if each.lower() in spelt)
    return name, spelt[name.lower()]


RECIPES = [
    path for path in MODELS if path.parent == CONFIGS and {"t", "s"} & set(policy_of(path)[1])
]


def size_of(path):
    """Of the trunk, by the file name: T where it names none."""
    return next((word for word in policy_of(path)[1] if word in WIDTHS), "t")


def parent_of(path):
    """OUTPUT_DIR of the dense config that a fine-tuning starts from, as docs/coco.md says."""
    folder = path.parent.name
    if folder in ("demo", "compare"):
        return "output/demo_adapter_dense" if "adapter" in path.stem else "output/demo_dense"
    if folder == "ablation":
        return "output/plain_dense_t"
    (dense,) = (
        each
        for each in MODELS
        if each.parent == path.parent and policy_of(each) == ("Dense", policy_of(path)[1])
    )
    return f"output/{'custom_' if folder == 'custom' else ''}{dense.stem}"


@pytest.mark.parametrize("path", MODELS, ids=named)
def test_where_it_writes_and_what_it_starts_from(path):
    """As docs/coco.md says."""
    values, folder = read_yaml(str(path)), path.parent.name
    before = f"{folder}_" if folder in ("demo", "custom", "compare") else ""
    assert values["OUTPUT_DIR"] == f"output/{before}{path.stem}"
    if policy_of(path)[0] != "Dense" or folder == "compare":
        assert values["MODEL"]["WEIGHTS"] == f"{parent_of(path)}/model_final.pth"


def trunk_size(vit):
    """Parameters of DeiT without its class token, final norm and head, by hand."""
    width, hidden = vit.EMBED_DIM, int(vit.EMBED_DIM * vit.MLP_RATIO)
    attention = 3 * width * (width + 1) + width * (width + 1)
    mlp = hidden * (width + 1) + width * (hidden + 1)
    block = attention + mlp + 2 * (2 * width)
    positions = 1 + math.prod(vit.PRETRAIN_GRID)
    return (3 * vit.PATCH_SIZE**2 + 1) * width + positions * width + vit.DEPTH * block


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("path", BASES, ids=named)
def test_base_has_no_unknown_key(path):
    """A base of heads alone gets a network, without which it builds no detector of ours."""
    load_config(str(path), ["MODEL.BACKBONE.NAME", "build_plain_vit_simple_pyramid_backbone"])


@pytest.mark.parametrize("path", MODELS, ids=named)
def test_config_builds_what_its_name_says(path):
    """The policy, then in any order: its network, size, heads, wrappers, and a setting."""
    cfg = load_config(str(path), ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    net = find_token_net(model)
    outer, wrappers = net.trunk.policy, []
    while isinstance(outer, PolicyWrapper):
        wrappers.append(type(outer).__name__)
        outer = outer.policy
    policy = innermost(net.trunk.policy)
    name, words = policy_of(path)
    assert type(policy) is POLICY_REGISTRY.get(name)
    assert wrappers == [WRAPPERS[word] for word in words if word in WRAPPERS]
    if isinstance(policy, SViT):
        assert len(policy.gates) == (3 if "monotone" in words else 9)

    assert WIDTHS[size_of(path)] == cfg.MODEL.VIT.EMBED_DIM
    class_token = cfg.MODEL.VIT.EMBED_DIM if policy.needs_class_token else 0
    assert count(net.trunk) - count(policy) == trunk_size(cfg.MODEL.VIT) + class_token
    is_demo = path.parent.name in ("demo", "compare")
    is_plain = "adapter" not in words if is_demo else "plain" in words
    assert type(net) is (PlainViT if is_plain else ViTAdapter)
    is_retinanet, is_cascade = "retinanet" in words, "cascade" in words
    assert ("TokenRetinaNet" if is_retinanet else "TokenRCNN") == cfg.MODEL.META_ARCHITECTURE
    millions = count(model) / 1e6
    if is_demo:
        assert 6 < millions < 9
    else:
        # A Mask R-CNN head has 17 million, each further box head of a cascade 14 million, a
        # RetinaNet head 6.5 million.
        net_millions = 21.7 if cfg.MODEL.VIT.EMBED_DIM == 384 else 5.5
        if not is_plain:
            net_millions = 27.4 if cfg.MODEL.VIT.EMBED_DIM == 384 else 7.9
        heads = 46 if is_cascade else 6.5 if is_retinanet else 18
        assert net_millions + heads < millions < net_millions + heads + 6
    if not is_retinanet:
        assert len(model.roi_heads.box_predictor if is_cascade else [0]) == (3 if is_cascade else 1)

    known = {*WRAPPERS, *WIDTHS, "plain", "adapter", "retinanet", "cascade", "thousands"}
    setting = "_".join(word for word in words if word not in known)
    _, settings, _ = token_policy_config(cfg.MODEL.TOKEN_POLICY)
    if setting.isdigit():  # percent of the tokens that the schedule's blocks keep in the mean
        assert np.mean(settings.keep_ratios) == pytest.approx(int(setting) / 100, abs=1e-3)
    else:
        assert not setting or setting in changed(settings)


def changed(settings):
    """Names of the settings that are not at their defaults, and the words that they hold."""
    for name, default in settings.defaults().items():
        value = getattr(settings, name)
        if value != default:
            yield name
            if isinstance(value, str):
                yield value


@pytest.mark.parametrize(("size", "millions"), [("t", 28.15), ("s", 48.13)], ids=["T", "S"])
def test_the_whole_detector_is_as_large_as_the_papers(size, millions):
    """The original has 28.15 and 48.13 million parameters as Mask R-CNN on SViT-Adapter."""
    model = build_model(load_config(str(CONFIGS / f"svit_{size}.yaml"), ["MODEL.DEVICE", "cpu"]))
    assert count(model) / 1e6 == pytest.approx(millions, abs=0.15)


@pytest.mark.parametrize("size", WIDTHS)
def test_the_policies_cost_about_the_same(size):
    """Blocks on the 50 x 84 tokens of COCO's usual size; ATS by its points, its upper bound."""
    shares = {}
    for path in MODELS:
        name, words = policy_of(path)
        if path.parent != CONFIGS or sorted(words) != sorted(["plain", size]):
            continue
        model = build_model(load_config(str(path), ["MODEL.DEVICE", "cpu"])).eval()
        trunk = find_token_net(model).trunk
        schedule = trunk.policy.schedule
        if schedule is None:
            continue
        # Where in a block the choice falls is the policy's own matter: see what it does.
        with torch.no_grad(), record_passes(model) as records:
            model.backbone(torch.randn(1, 3, 128, 128))
        first = records[0].blocks[min(schedule.layers)].rows
        attended_by_all, asked_by_all = first.keys > first.mlp, first.queries > first.mlp
        kept, spent = 4200, 0
        for layer in range(12):
            after = round(4200 * schedule.share(layer)) if layer in schedule else kept
            attended = kept if attended_by_all else after
            spent += trunk.block(layer).macs(attended, attended if asked_by_all else after, after)
            kept = after
        shares[name] = spent / (12 * trunk.block(0).macs(4200))
    assert len(shares) >= 4
    assert all(0.49 < share < 0.59 for share in shares.values()), shares


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_recipes(path):
    """Epochs of COCO's 117,266 images with objects, at 16 a step, are so many steps."""
    cfg = load_config(str(path))
    name, size = policy_of(path)[0], size_of(path)
    if name == "Dense":
        epochs, falls, rate, decay = 36, [27, 33], 1e-4, 0.05
    else:
        epochs, falls, rate, decay = {"t": (6, [4], 1e-5, 1e-6), "s": (4, [3], 1e-5, 1e-6)}[size]
    steps = math.ceil(117_266 / cfg.SOLVER.IMS_PER_BATCH)
    assert steps == 7_330
    assert epochs * steps == cfg.SOLVER.MAX_ITER
    assert tuple(fall * steps for fall in falls) == tuple(cfg.SOLVER.STEPS)
    assert (rate, decay) == (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY)
    assert (cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR) == (500, 0.001)
    assert cfg.SOLVER.AMP.ENABLED and not cfg.SOLVER.CLIP_GRADIENTS.ENABLED
    assert {"t": 0.1, "s": 0.2}[size] == cfg.MODEL.VIT.DROP_PATH_RATE
    assert cfg.MODEL.TOKEN_POLICY.LOSS_WEIGHT == 4.0
    assert cfg.MODEL.ADAPTER.NORM == "SyncBN"
    assert cfg.INPUT.DETR_CROP.ENABLED
    assert list(cfg.INPUT.DETR_CROP.MIN_SIZES) == [400, 500, 600]
    assert list(cfg.INPUT.DETR_CROP.CROP_SIZE) == [384, 600]
    assert list(cfg.INPUT.MIN_SIZE_TRAIN) == list(range(480, 801, 32))


def test_sizes_are_those_of_deit():
    tiny = load_config(str(CONFIGS / "plain_dense_t.yaml")).MODEL.VIT
    small = load_config(str(CONFIGS / "plain_dense_s.yaml")).MODEL.VIT
    # timm's DeiT less class token, final norm and head: 5,717,416 and 22,050,664 parameters.
    assert trunk_size(tiny) == 5_717_416 - 192 - 2 * 192 - 193 * 1000
    assert trunk_size(small) == 22_050_664 - 384 - 2 * 384 - 385 * 1000


# ------------------------------------------------------------------ refused files


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("MODEL:\n  VIT:\n    DEPHT: 3", ["'MODEL.VIT.DEPHT'", "nearest is 'MODEL.VIT.DEPTH'"]),
        ("MODEL:\n  TOKEN_POLICIES:\n    NAME: SViT", ["nearest is 'MODEL.TOKEN_POLICY'"]),
        ("MODEL:\n  VIT:\n    DEPTH: deep", ["MODEL.VIT.DEPTH", "'deep'", "12"]),
        ("MODEL:\n  VIT:\n    DEPTH: null", ["MODEL.VIT.DEPTH", "None is not a whole number"]),
        ("MODEL:\n  VIT: 3", ["MODEL.VIT", "'3'"]),
        ("MODEL:\n  TOKEN_POLICY:\n    KEEP_RATIOS: [0.7, most]", ["KEEP_RATIOS", "'most'"]),
        ("MODEL:\n  BACKBONE:\n    NAME: build_plain_vit", ["MODEL.BACKBONE.NAME", "nearest"]),
        ("MODEL:\n  ROI_HEADS:\n    NAME: CascadeHeads", ["ROI_HEADS.NAME", "'CascadeROIHeads'"]),
        ("MODEL:\n  META_ARCHITECTURE: TokenRCN", ["META_ARCHITECTURE", "'TokenRCNN'"]),
        ("MODEL:\n  DEVICE: toaster", ["MODEL.DEVICE", "toaster"]),
        ("INPUT:\n  FORMAT: HSV", ["INPUT.FORMAT", "'HSV'", "BGR"]),
        ("INPUT:\n  MASK_FORMAT: rle", ["INPUT.MASK_FORMAT", "bitmask"]),
        ("INPUT:\n  RANDOM_FLIP: sideways", ["INPUT.RANDOM_FLIP", "both"]),
        ("INPUT:\n  CROP:\n    TYPE: half", ["INPUT.CROP.TYPE", "relative_range"]),
        ("MODEL: [", ["not a readable yaml"]),
        ("MODEL:\n  1: 2", ["wrong.yaml"]),
        ("- a\n- b", ["keys with values"]),
        ("just words", ["keys with values"]),
        ("", ["is empty"]),
        ("\0\1\2", ["not a readable yaml"]),
        ("_BASE_: wrong.yaml", ["_BASE_"]),
        ("_BASE_: elsewhere.yaml", ["elsewhere.yaml"]),
        ("_BASE_: number.yaml\nMODEL:\n  VIT:\n    DEPTH: 3", ["VIT"]),
    ],
)
def test_wrong_file(tmp_path, text, said):
    (tmp_path / "number.yaml").write_text("MODEL:\n  VIT: 3")
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as refusal:
        load_config(str(path))
    assert "\n" not in str(refusal.value)
    for word in said:
        assert word in str(refusal.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml"):
        load_config(str(tmp_path / "nowhere.yaml"))


def test_python_tag_is_refused_and_does_not_run(tmp_path):
    trace = tmp_path / "was_here"
    path = tmp_path / "evil.yaml"
    path.write_text(f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{trace.as_posix()}']")
    with pytest.raises(InputError, match=r"evil\.yaml.*python tag"):
        load_config(str(path))
    nested = tmp_path / "innocent.yaml"
    nested.write_text("_BASE_: evil.yaml")
    with pytest.raises(InputError, match="python tag"):
        load_config(str(nested))
    assert not trace.exists()
    # The danger is real: detectron2's own way of loading runs it.
    get_cfg().load_yaml_with_base(str(path), allow_unsafe=True)
    assert trace.is_dir()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["MODEL.VIT.DEPHT", "3"], ["command line", "'MODEL.VIT.DEPHT'", "'MODEL.VIT.DEPTH'"]),
        (["MODEL.VIT.DEPTH.X", "3"], ["command line", "'MODEL.VIT.DEPTH'"]),
        (["SVIT.MODE", "quota"], ["'MODEL.TOKEN_POLICY.SVIT.MODE'"]),
        (["MODEL.VIT.DEPTH"], ["KEY VALUE", "'MODEL.VIT.DEPTH'"]),
        (["MODEL.VIT.DEPTH=3"], ["MODEL.VIT.DEPTH 3, without the sign ="]),
        (["MODEL.VIT.DEPTH", "3", "--resume"], ["--resume", "before the first KEY VALUE"]),
        (["MODEL.VIT.DEPTH", "3", "SEED"], ["'SEED' stands alone"]),
        (["MODEL.VIT.DEPTH", "3.5"], ["MODEL.VIT.DEPTH", "3.5"]),
        (["MODEL.VIT.DEPTH", "None"], ["MODEL.VIT.DEPTH"]),
        (["MODEL.VIT", "3"], ["MODEL.VIT"]),
        (["MODEL.TOKEN_POLICY.LAYERS", "[3, 'four']"], ["MODEL.TOKEN_POLICY.LAYERS", "four"]),
        (["", "3"], ["command line"]),
    ],
)
def test_wrong_override(options, said):
    with pytest.raises(InputError) as refusal:
        load_config(str(CONFIGS / "plain_svit_t.yaml"), options)
    assert "\n" not in str(refusal.value)
    for word in said:
        assert word in str(refusal.value)


def test_overrides_win_over_the_file_and_its_bases(tmp_path):
    (tmp_path / "base.yaml").write_text("SEED: 1\nVIS_PERIOD: 1\nMODEL: {VIT: {DEPTH: 1}}")
    (tmp_path / "own.yaml").write_text("_BASE_: base.yaml\nSEED: 2\nVIS_PERIOD: 2")
    cfg = load_config(str(tmp_path / "own.yaml"), ["SEED", "3"])
    assert (cfg.SEED, cfg.VIS_PERIOD, cfg.MODEL.VIT.DEPTH) == (3, 2, 1)


def test_device_without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = str(CONFIGS / "plain_svit_t.yaml")
    assert load_config(path).MODEL.DEVICE == "cpu"
    with pytest.raises(InputError, match=r"MODEL\.DEVICE is cuda:1.*no usable GPU"):
        load_config(path, ["MODEL.DEVICE", "cuda:1"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load_config(path).MODEL.DEVICE == "cuda"


# ------------------------------------------------------------------ refused values


POLICY = "MODEL.TOKEN_POLICY"


@pytest.mark.parametrize(
    ("options", "key", "said"),
    [
        ([f"{POLICY}.KEEP_RATIOS", "[0.7, 0.0]"], f"{POLICY}.KEEP_RATIOS", "0.0"),
        ([f"{POLICY}.KEEP_RATIOS", "[0.7, 1.1]"], f"{POLICY}.KEEP_RATIOS", "1.1"),
        ([f"{POLICY}.KEEP_RATIOS", "[-0.5, 0.7]"], f"{POLICY}.KEEP_RATIOS", "-0.5"),
        ([f"{POLICY}.KEEP_RATIOS", "[0.7, 0.7, 0.7]"], f"{POLICY}.KEEP_RATIOS", "3 targets for 2"),
        ([f"{POLICY}.KEEP_RATIOS", "[0.7]"], f"{POLICY}.KEEP_RATIOS", "1 targets for 2"),
        ([f"{POLICY}.LAYERS", "[1, 3]"], f"{POLICY}.LAYERS", "3"),
        ([f"{POLICY}.LAYERS", "[-1, 2]"], f"{POLICY}.LAYERS", "-1"),
        ([f"{POLICY}.LAYERS", "[1, 1]"], f"{POLICY}.LAYERS", "twice"),
        ([f"{POLICY}.TEST_KEEP_RATIO", "1.5"], f"{POLICY}.TEST_KEEP_RATIO", "1.5"),
        ([f"{POLICY}.NAME", "SVit"], f"{POLICY}.NAME", "SViT"),
        ([f"{POLICY}.WRAPPERS", "['Monoton']"], f"{POLICY}.WRAPPERS", "Monotone"),
        ([f"{POLICY}.SVIT.MODE", "greedy"], f"{POLICY}.SVIT.MODE", "quota"),
        (["MODEL.VIT.POS_EMBED_INIT", "zeros"], "MODEL.VIT.POS_EMBED_INIT", "sincos"),
        (["MODEL.VIT.CPU_PRECISION", "float8"], "MODEL.VIT.CPU_PRECISION", "bfloat16"),
        (["MODEL.VIT.PATCH_SIZE", "12"], "MODEL.VIT.PATCH_SIZE", "12"),
        (["MODEL.VIT.PATCH_SIZE", "1"], "MODEL.VIT.PATCH_SIZE", "powers of two"),
        (
            ["MODEL.SIMPLE_PYRAMID.SCALE_FACTORS", "[2.0, 0.5]"],
            "MODEL.SIMPLE_PYRAMID.SCALE_FACTORS",
            "[2.0, 0.5]",
        ),
        (["MODEL.SIMPLE_PYRAMID.SCALE_FACTORS", "[]"], "MODEL.SIMPLE_PYRAMID.SCALE_FACTORS", "[]"),
        (["MODEL.VIT.PATCH_SIZE", "16"], "MODEL.RPN.IN_FEATURES", "no p2; its levels are p3, p4"),
        (["MODEL.ROI_HEADS.IN_FEATURES", "['p9']"], "MODEL.ROI_HEADS.IN_FEATURES", "p9"),
        (
            ["MODEL.ANCHOR_GENERATOR.SIZES", "[[16], [32]]"],
            "MODEL.ANCHOR_GENERATOR.SIZES",
            "2 lists for the 3 levels",
        ),
        (["MODEL.VIT.NUM_HEADS", "5"], "MODEL.VIT.NUM_HEADS", "5 heads"),
        (["MODEL.VIT.DEPTH", "0"], "MODEL.VIT.DEPTH", "0"),
        (["MODEL.VIT.PRETRAIN_GRID", "[14]"], "MODEL.VIT.PRETRAIN_GRID", "[14]"),
    ],
)
def test_wrong_value(tiny_config, options, key, said):
    with pytest.raises(InputError) as refusal:
        build_model(tiny_config(*options))
    assert key in str(refusal.value)
    assert said in str(refusal.value)


def test_limits_are_allowed(tiny_config):
    build_model(tiny_config(f"{POLICY}.KEEP_RATIOS", "[1.0, 0.01]", f"{POLICY}.LAYERS", "[0, 2]"))
