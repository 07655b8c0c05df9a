"""Config keys come from declarations: nodes, checks, names in messages, and the table in docs/."""

import inspect
from dataclasses import dataclass
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from svit_det.cli import config_keys
from svit_det.cli.config_keys import key_table
from svit_det.config.policy import build_policy_from, token_policy_config
from svit_det.config.trunk import vit_key
from svit_det.detection import add_svit_config, load_config
from svit_det.detection.config import adapter_key, declared_nodes
from svit_det.errors import InputError
from svit_det.policies import POLICY_REGISTRY, PolicyConfig, TokenPolicy, TrunkShape
from svit_det.policies.base import ScheduleConfig
from svit_det.policies.evo_vit import EvoViT
from svit_det.policies.svit import SViT
from svit_det.settings import setting
from svit_det.vit import build_trunk

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
POLICY = "MODEL.TOKEN_POLICY"
SHAPE = TrunkShape(24, 12, 3)


def config(name, *options):
    return load_config(str(CONFIGS / f"{name}.yaml"), [*options])


def refusal(name, *options):
    with pytest.raises(InputError) as refused:
        config(name, *options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def defaults():
    cfg = get_cfg()
    add_svit_config(cfg)
    return cfg


def leaves(node, prefix=""):
    found = set()
    for name, value in node.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


@pytest.fixture
def registered():
    """Factory: register a policy for one test, `registered(policy)`."""
    names = []

    def register(policy):
        POLICY_REGISTRY.register(policy)
        names.append(policy.__name__)

    yield register
    for name in names:
        del POLICY_REGISTRY._obj_map[name]


# ------------------------------------------------------------------ declarations


def test_every_key_is_declared_and_explained():
    declared = {f"{name}.{key}" for name, node in declared_nodes().items() for key in node.keys}
    assert declared == leaves(defaults()) - leaves(get_cfg())
    for name, node in declared_nodes().items():
        assert node.doc.endswith("."), name
        for key, each in node.keys.items():
            assert len(each.about.doc) > 5, f"{name}.{key}"


def test_the_trunks_arguments_are_keys():
    """Of each argument of the trunk there is the key, with the same default."""
    node, beside = defaults().MODEL.VIT, {"policy", "in_channels", "class_token", "execution"}
    for name, parameter in inspect.signature(build_trunk).parameters.items():
        if name not in beside:
            default = node[vit_key(name).removeprefix("MODEL.VIT.")]
            assert (tuple(default) if isinstance(default, list) else default) == parameter.default


def test_arguments_of_the_adapter():
    assert adapter_key("num_heads") == "MODEL.ADAPTER.DEFORM_NUM_HEADS"
    assert adapter_key("interactions") == "MODEL.ADAPTER.INTERACTIONS"
    assert adapter_key("patch_size") == "MODEL.VIT.PATCH_SIZE"


class Halving(TokenPolicy):
    """A policy with settings of its own.

    More about it.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        """Its settings."""

        share: float = setting(0.5, "Share that stays | of all.", interval="(0, 1]")
        order: str = setting("first", "Which.", choices=("first", "last"))

    def __init__(self, *, config, shape):
        super().__init__()
        self.config = config


def test_a_policy_brings_its_node_its_comment_and_its_place_in_the_table(registered):
    before = key_table()
    registered(Halving)
    cfg = defaults()
    assert dict(cfg.MODEL.TOKEN_POLICY.HALVING) == {"SHARE": 0.5, "ORDER": "first"}
    added = set(key_table().splitlines()) - set(before.splitlines())
    assert added == {
        f"## {POLICY}.HALVING",
        "Keys of Halving. A policy with settings of its own.",
        "| `SHARE` | `0.5` | number in (0, 1] | Share that stays \\| of all. |",
        '| `ORDER` | `"first"` | `first`, `last` | Which. |',
    }
    cfg.MODEL.TOKEN_POLICY.NAME = "Halving"
    cfg.MODEL.TOKEN_POLICY.HALVING.SHARE = 0.25
    cfg.MODEL.TOKEN_POLICY.LAYERS = [3]
    policy = build_policy_from(cfg.MODEL.TOKEN_POLICY, SHAPE)
    assert policy.config == Halving.Config(share=0.25, layers=(3,))
    assert f"{POLICY}.HALVING.SHARE: 0.0 must" in refusal(
        "plain_dense_t", f"{POLICY}.HALVING.SHARE", "0.0"
    )


def test_a_policy_without_settings_changes_no_key(registered):
    before, table = leaves(defaults()), key_table()
    registered(type("Bare", (TokenPolicy,), {}))
    assert leaves(defaults()) == before and key_table() == table


@dataclass(frozen=True, kw_only=True)
class OtherWeight(PolicyConfig):
    loss_weight: float = setting(1.0, "Another weight.", shared=True)


@dataclass(frozen=True, kw_only=True)
class OtherNode(PolicyConfig):
    node = "SVIT"
    mode: str = setting("mine", "Another mode.")


@dataclass(frozen=True, kw_only=True)
class NodeLikeAKey(PolicyConfig):
    node = "LAYERS"
    mode: str = setting("mine", "A mode.")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (OtherWeight, "LOSS_WEIGHT: .* unlike"),
        (OtherNode, "SVIT: .* unlike"),
        (NodeLikeAKey, "LAYERS: both"),
    ],
)
def test_one_key_has_one_declaration(registered, config, said):
    registered(type("Rival", (TokenPolicy,), {"Config": config}))
    with pytest.raises(InputError, match=f"{POLICY}.{said}"):
        defaults()


# ------------------------------------------------------------------ from the node to the policy


def test_the_chosen_policys_settings():
    node = defaults().MODEL.TOKEN_POLICY
    node.NAME, node.WRAPPERS, node.LAYERS, node.KEEP_RATIOS = "SViT", ["Forgetful"], [3], [0.5]
    node.SVIT.MODE, node.EVIT.FUSE = "quota", False
    settings = SViT.Config(layers=(3,), keep_ratios=(0.5,), mode="quota")
    assert token_policy_config(node) == ("SViT", settings, ("Forgetful",))
    wrapped = build_policy_from(node, SHAPE)
    assert type(wrapped).__name__ == "Forgetful" and wrapped.policy.mode == "quota"


@pytest.mark.parametrize(
    ("name", "changes", "key"),
    [
        ("SViT", {"KEEP_RATIOS": [0.5]}, "KEEP_RATIOS"),
        ("SViT", {"LAYERS": [12], "KEEP_RATIOS": [0.5]}, "LAYERS"),
        ("SViT", {"LAYERS": 3}, "LAYERS"),
        ("ATS", {"TEST_KEEP_RATIO": 0}, "TEST_KEEP_RATIO"),
        ("Svit", {}, "NAME"),
        ("Dense", {"WRAPPERS": ["Monoton"]}, "WRAPPERS"),
        ("Dense", {"WRAPPERS": ["Monotone", "Monotone"]}, "WRAPPERS"),
        ("EvoViT", {"EVO_VIT": {"STAGE_WISE": True, "STAGES": [5]}}, "EVO_VIT.STAGES"),
        ("SViT", {"SVIT": {"MODE": "greedy"}}, "SVIT.MODE"),
        ("SViT", {"WRAPPERS": ["Monotone"], "TEST_KEEP_RATIO": 0.5}, "TEST_KEEP_RATIO"),
    ],
)
def test_a_refusal_names_the_key(name, changes, key):
    node = defaults().MODEL.TOKEN_POLICY
    node.NAME = name
    for own, value in changes.items():
        if isinstance(value, dict):
            node[own].update(value)
        else:
            node[own] = value
    with pytest.raises(InputError, match=rf"^{POLICY}\.{key}\b"):
        build_policy_from(node, SHAPE)


# ------------------------------------------------------------------ set, but not used

USED = {"LAYERS": "[3]", "KEEP_RATIOS": "[0.5]", "TEST_KEEP_RATIO": "0.5", "LOSS_WEIGHT": "1.0"}
DEFAULT = {"LAYERS": "[]", "KEEP_RATIOS": "[]", "TEST_KEEP_RATIO": "None", "LOSS_WEIGHT": "4.0"}


@pytest.mark.parametrize("values", [USED, DEFAULT], ids=["changed", "as by default"])
@pytest.mark.parametrize(
    ("name", "unused"),
    [("dense", tuple(USED)), *((each, ("LOSS_WEIGHT",)) for each in ("evit", "ats", "evo_vit"))],
)
def test_an_override_of_a_key_that_is_not_used(name, unused, values):
    for key, value in values.items():
        if key not in unused:
            config(f"plain_{name}_t", f"{POLICY}.{key}", value)
            continue
        said = refusal(f"plain_{name}_t", f"{POLICY}.{key}", value)
        chosen = config(f"plain_{name}_t").MODEL.TOKEN_POLICY.NAME
        unwanted = f"{POLICY}.{key} is set, but {chosen} does not use it: remove it"
        assert said.startswith(f"On the command line: {unwanted}")
        assert "SViT" in said and "AttentionProbe" not in said


@pytest.mark.parametrize("values", [USED, DEFAULT], ids=["changed", "as by default"])
@pytest.mark.parametrize("key", USED)
def test_a_file_or_its_base_with_a_key_that_is_not_used(tmp_path, key, values):
    value = values[key].replace("None", "null")
    (tmp_path / "base.yaml").write_text(f"MODEL: {{TOKEN_POLICY: {{{key}: {value}}}}}")
    path = tmp_path / "own.yaml"
    path.write_text("_BASE_: base.yaml\nMODEL: {TOKEN_POLICY: {NAME: Dense}}")
    with pytest.raises(InputError, match=f"{POLICY}.{key} is set, but Dense"):
        load_config(str(path))


def test_the_nodes_of_other_policies_may_be_set():
    options = [f"{POLICY}.SVIT.MODE", "quota", f"{POLICY}.EVIT.FUSE", "False"]
    assert config("plain_dense_t", *options).MODEL.TOKEN_POLICY.SVIT.MODE == "quota"


def test_the_probe_stands_in_for_any_policy():
    options = [word for key, value in USED.items() for word in (f"{POLICY}.{key}", value)]
    cfg = config("plain_svit_t", *options, f"{POLICY}.NAME", "AttentionProbe")
    assert type(build_policy_from(cfg.MODEL.TOKEN_POLICY, SHAPE)).__name__ == "AttentionProbe"


@pytest.mark.parametrize(
    ("key", "value"), [("LAYERS", [3]), ("TEST_KEEP_RATIO", 0.5), ("LOSS_WEIGHT", 1.0)]
)
def test_by_hand_a_key_counts_as_set_where_it_is_changed(key, value):
    node = defaults().MODEL.TOKEN_POLICY
    token_policy_config(node)
    node[key] = value
    with pytest.raises(InputError, match=f"{POLICY}.{key} is set, but Dense"):
        build_policy_from(node, SHAPE)


def test_the_config_that_a_run_leaves_can_be_run_again(tmp_path):
    """It names every key; an override on top of it is set all the same."""
    path = tmp_path / "config.yaml"
    cfg = config("plain_dense_t")
    path.write_text(cfg.dump())
    assert load_config(str(path)).MODEL.TOKEN_POLICY == cfg.MODEL.TOKEN_POLICY
    with pytest.raises(InputError, match=f"{POLICY}.LAYERS is set"):
        load_config(str(path), [f"{POLICY}.LAYERS", "[]"])
    cfg.MODEL.TOKEN_POLICY.KEEP_RATIOS = [0.5]
    path.write_text(cfg.dump())
    with pytest.raises(InputError, match=f"{POLICY}.KEEP_RATIOS is set"):
        load_config(str(path))


# ------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (f"{POLICY}.LOSS_WEIGHT", "-1.0"),
        (f"{POLICY}.LOSS_WEIGHT", ".nan"),
        (f"{POLICY}.LOSS_WEIGHT", ".inf"),
        (f"{POLICY}.KEEP_RATIOS", "[0.7, .nan]"),
        (f"{POLICY}.KEEP_RATIOS", f"[1{400 * '0'}]"),
        (f"{POLICY}.TEST_KEEP_RATIO", "1.5"),
        (f"{POLICY}.TEST_KEEP_RATIO", "half"),
        (f"{POLICY}.LAYERS", "null"),
        (f"{POLICY}.LAYERS", "[3.5]"),
        (f"{POLICY}.EVIT.WARMUP_STEPS", "-1"),
        (f"{POLICY}.EVO_VIT.SCORE_UPDATE", "0.0"),
        (f"{POLICY}.SVIT.RATIO_PER_IMAGE", "null"),
        ("MODEL.VIT.LAYER_NORM_EPS", "1.0e+300"),
        ("MODEL.VIT.LAYER_NORM_EPS", "0.0"),
        ("MODEL.VIT.DROP_PATH_RATE", "1.0"),
        ("MODEL.VIT.MLP_RATIO", ".nan"),
        ("MODEL.VIT.PRETRAIN_GRID", "[14, 0]"),
        ("MODEL.VIT.POS_EMBED_INIT", "zeros"),
        ("MODEL.SIMPLE_PYRAMID.OUT_CHANNELS", "0"),
        ("MODEL.ADAPTER.NUM_POINTS", "0"),
        ("MODEL.ADAPTER.FFN_RATIO", "-0.25"),
        ("MODEL.ADAPTER.NORM", "LN"),
        ("INPUT.DETR_CROP.MIN_SIZES", "[400, 0]"),
        ("SOLVER.OPTIMIZER", "ADAM"),
        ("SOLVER.NO_WEIGHT_DECAY", "[3]"),
        ("TEST.TOKEN_USAGE", "null"),
        ("DATASETS.COCO_FORMAT", "null"),
    ],
)
def test_a_value_outside_is_refused_when_it_is_read(tmp_path, key, value):
    path = tmp_path / "own.yaml"
    *nodes, last = key.split(".")
    text = f"{{{last}: {value}}}"
    for node in reversed(nodes):
        text = f"{{{node}: {text}}}"
    path.write_text(f'{{_BASE_: "{(CONFIGS / "plain_svit_t.yaml").as_posix()}", {text[1:]}')
    with pytest.raises(InputError, match=rf"own\.yaml: {key}: "):
        load_config(str(path))


def test_the_rest_checks_lists_of_lists():
    cfg = config("svit_t", "MODEL.ADAPTER.INTERACTIONS", "[[0, 5], [6, 11]]")
    assert cfg.MODEL.ADAPTER.INTERACTIONS == [[0, 5], [6, 11]]


def test_evo_vits_node_keeps_its_name():
    assert EvoViT.Config.node == "EVO_VIT" and "EVO_VIT" in defaults().MODEL.TOKEN_POLICY


# ------------------------------------------------------------------ the table


def test_the_table_is_fresh():
    assert config_keys.TABLE.read_text(encoding="utf-8") == key_table(), (
        "run python tools/config_keys.py"
    )


def test_the_tool_writes_the_table_and_says_when_it_is_stale(fork_tool, tmp_path):
    path = tmp_path / "keys.md"
    stale = fork_tool("config_keys.py", "--check", "--file", path)
    assert stale.returncode == 1
    assert (
        stale.stderr == f"config_keys.py: {path} is not fresh: run python tools/config_keys.py.\n"
    )
    assert not path.exists()
    assert fork_tool("config_keys.py", "--file", path).returncode == 0
    assert path.read_text(encoding="utf-8") == key_table()
    assert config_keys.main(["--check", "--file", str(path)]) is None
    path.write_text(key_table() + "more")
    assert "is not fresh" in config_keys.main(["--check", "--file", str(path)])
    assert "is another file" in config_keys.main(["--file", str(tmp_path)])
    assert "cannot be written" in config_keys.main(["--file", "/proc/keys.md"])


def test_only_such_a_page_is_replaced(fork_tool, refused, tmp_path):
    mine, page = tmp_path / "mine.md", tmp_path / "keys.md"
    mine.write_text("# My notes\n")
    assert "mine.md: is another file" in refused("config_keys.py", "--file", mine)
    assert mine.read_text() == "# My notes\n"
    for _ in range(2):
        assert fork_tool("config_keys.py", "--file", page).returncode == 0
    assert page.read_text(encoding="utf-8") == key_table()
