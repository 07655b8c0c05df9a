"""A few habits that reviews forget, read from the syntax trees."""

import ast
from pathlib import Path

import pytest

from svit_det.policies import POLICY_REGISTRY, WRAPPER_REGISTRY

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*ROOT.glob("svit_det/**/*.py"), *ROOT.glob("tools/**/*.py")])
MAX_LINES = 320

# Methods that run while images pass through a model.
FORWARD_METHODS = {
    *("forward", "before_block", "before_attention", "after_attention", "after_block"),
    *("read_map", "write_map", "enter", "run", "embed"),
    *("normed", "class_attention", "class_attention_to_all", "value_norms", "attended"),
}
LIVES_FOR_ONE_BLOCK = {"BlockInProgress"}

REGISTERED = {
    name: registry.get(name)
    for registry in (POLICY_REGISTRY, WRAPPER_REGISTRY)
    for name in registry.names()
}
# Tables of weights that were trained for one policy say which one.
MAY_NAME_A_POLICY = {
    "svit_det/weights/mmdet.py",
    "svit_det/weights/convert.py",
    # A file of SViT's holds gates, which no other policy has a place for.
    "tools/convert_weights.py",
    "svit_det/cli/convert_weights.py",
    "svit_det/cli/convert_detector.py",
}


def findings(check):
    return [f"{path.relative_to(ROOT)}: {problem}" for path in SOURCES for problem in check(path)]


def is_self(node):
    return isinstance(node, ast.Name) and node.id == "self"


def own_attribute(node):
    """The name of an attribute of self that this node changes, or changes an entry of."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, (ast.Store, ast.Del)):
        node = node.value
    elif not isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del)):
        return None
    return node.attr if isinstance(node, ast.Attribute) and is_self(node.value) else None


def methods_of_a_pass(owner):
    """The methods of a class that run in a forward pass, and those of its own that they call."""
    methods = {
        each.name: each
        for each in owner.body
        if isinstance(each, ast.FunctionDef)
        and not any(ast.unparse(mark).endswith(".setter") for mark in each.decorator_list)
    }
    waiting, found = [name for name in methods if name in FORWARD_METHODS], {}
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = methods[name]
        for node in ast.walk(methods[name]):
            if isinstance(node, ast.Attribute) and is_self(node.value) and node.attr in methods:
                waiting.append(node.attr)
    return found


def attributes_set_in_forward(source):
    """`Class.method: self.name` for each attribute of self assigned while a forward pass runs."""
    for owner in ast.walk(ast.parse(source)):
        if not isinstance(owner, ast.ClassDef) or owner.name in LIVES_FOR_ONE_BLOCK:
            continue
        for name, method in methods_of_a_pass(owner).items():
            for node in ast.walk(method):
                if attribute := own_attribute(node):
                    yield f"{owner.name}.{name}: self.{attribute}"
                elif isinstance(node, ast.Call) and ast.unparse(node).startswith("setattr(self,"):
                    yield f"{owner.name}.{name}: {ast.unparse(node)}"


def test_no_forward_pass_leaves_anything_on_a_module():
    assert findings(lambda path: attributes_set_in_forward(path.read_text())) == []


CHANGES = [
    "self.trace = x",
    "self.a, self.b = x, x",
    "self.count += 1",
    "self.x: int = 1",
    "for self.i in x: pass",
    "self.notes[3] = x",
    "del self.x",
    "setattr(self, 'x', 1)",
]


@pytest.mark.parametrize("line", CHANGES)
@pytest.mark.parametrize("method", sorted(FORWARD_METHODS))
def test_an_attribute_set_in_a_forward_pass_is_found(line, method):
    text = f"class Gate:\n    def {{}}(self, x):\n        {line}"
    assert len(list(attributes_set_in_forward(text.format(method)))) >= 1
    assert list(attributes_set_in_forward(text.format("__init__"))) == []
    assert list(attributes_set_in_forward(text.format("set_step"))) == []


@pytest.mark.parametrize("line", CHANGES)
def test_an_attribute_set_by_a_helper_of_a_forward_pass_is_found(line):
    text = (
        "class Gate:\n    def before_block(self, view, state):\n        return self._ask(state)\n"
        f"    def _ask(self, x):\n        {line}\n    def other(self):\n        self.y = 1"
    )
    assert {each.partition(":")[0] for each in attributes_set_in_forward(text)} == {"Gate._ask"}


def test_what_is_only_read_in_a_forward_pass_is_no_finding():
    line = "state.x = self.x[0]; y = self.x; self.gate(x).y = 2"
    text = f"class Gate:\n    def forward(self, x, state):\n        {line}"
    assert list(attributes_set_in_forward(text)) == []


def test_the_view_of_a_block_is_the_exception(monkeypatch):
    monkeypatch.setitem(globals(), "LIVES_FOR_ONE_BLOCK", set())
    found = list(attributes_set_in_forward((ROOT / "svit_det/vit/view.py").read_text()))
    assert found and all(each.startswith("BlockInProgress.") for each in found)


# ------------------------------------------------------------------ no policy by its name


def texts(node):
    """String constants in an expression, in tuples, lists and sets too."""
    return {
        each.value
        for each in ast.walk(node)
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    }


def names(node):
    """Last parts of the names in an expression."""
    return {
        getattr(each, "attr", None) or getattr(each, "id", None)
        for each in ast.walk(node)
        if isinstance(each, (ast.Attribute, ast.Name))
    }


def policies_asked_for(source):
    """Registered names that this source text asks for: by isinstance, type or string."""
    for node in ast.walk(ast.parse(source)):
        asked = set()
        if isinstance(node, ast.Call) and names(node.func) <= {"isinstance", "issubclass"}:
            asked = names(node)
        elif isinstance(node, ast.Call) and names(node.func) & {"startswith", "endswith"}:
            asked = set().union(*map(texts, node.args))
        elif isinstance(node, ast.Compare):
            asked = texts(node) | (names(node) if "type" in names(node) else set())
        elif isinstance(node, (ast.MatchValue, ast.MatchClass)):
            asked = texts(node) | names(node)
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict):
            asked = set().union(*(texts(key) for key in node.value.keys if key))
        yield from sorted(asked & set(REGISTERED))


def own_file(name):
    return REGISTERED[name].__module__.replace(".", "/") + ".py"


def test_no_code_asks_which_policy_it_has():
    """What depends on the policy is said by the policy, in an attribute or a method."""

    def check(path):
        where = str(path.relative_to(ROOT))
        if where in MAY_NAME_A_POLICY:
            return []
        return [name for name in policies_asked_for(path.read_text()) if where != own_file(name)]

    assert findings(check) == []


@pytest.mark.parametrize("name", sorted(REGISTERED))
@pytest.mark.parametrize(
    "line",
    [
        "isinstance(policy, {0})",
        "isinstance(policy, (int, svit_det.policies.ats.{0}))",
        "issubclass(kind, {0})",
        "type(policy) is {0}",
        "type(policy).__name__ == '{0}'",
        "cfg.MODEL.TOKEN_POLICY.NAME != '{0}'",
        "name in ('x', '{0}')",
        "'{0}' in wrappers",
        "name.startswith('{0}')",
        "match name:\n    case '{0}': pass",
        "match policy:\n    case {0}(): pass",
        "{{'{0}': 1}}[name]",
    ],
)
def test_a_question_for_a_policy_is_found(line, name):
    assert list(policies_asked_for(line.format(name))) == [name]


@pytest.mark.parametrize(
    "line",
    [
        "isinstance(policy, PolicyWrapper)",
        "policy = Dense()",
        "name: str = 'Dense'",
        "build_policy('SViT', shape=shape)",
        "kind == 'svit'",
    ],
)
def test_a_policy_may_be_built_by_its_name(line):
    assert list(policies_asked_for(line)) == []


# ------------------------------------------------------------------ files


def test_there_is_no_utils():
    named = [
        path
        for folder in ("svit_det", "tools", "tests")
        for path in ROOT.glob(f"{folder}/**/utils*")
    ]
    assert [path for path in named if path.suffix == ".py" or path.is_dir()] == []


def test_files_stay_short():
    lengths = {path: len(path.read_text().splitlines()) for path in SOURCES}
    assert {path.name: n for path, n in lengths.items() if n > MAX_LINES} == {}
