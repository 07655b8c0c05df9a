"""The table of docs/policies.md: what each policy does, observed on a small trunk.

svit-det policy-table           write the table into the page
svit-det policy-table --check   say whether the table is fresh; status 1 if it is not
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from svit_det.cli.execution import problem_of
from svit_det.cli.pages import read_page, with_table, write_page
from svit_det.errors import InputError
from svit_det.policies import POLICY_REGISTRY, TokenPolicy, TrunkShape, build_policy
from svit_det.tokens import BlockRecord
from svit_det.vit import build_trunk

PAGE = Path(__file__).resolve().parents[2] / "docs" / "policies.md"
BEGIN = "<!-- what follows is written by tools/policy_table.py -->"
END = "<!-- end of what tools/policy_table.py writes -->"
HEADS = (
    "policy",
    "count known beforehand",
    "class token",
    "brings tokens back",
    "adds tokens",
    "skips heads and sub-layers",
    "trains packed",
    "other budget at inference",
)
SEEDS = 3
History = tuple[BlockRecord, ...]
SHAPE = TrunkShape(embed_dim=24, depth=12, num_heads=3)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if stale")
    parser.add_argument("--file", type=Path, default=PAGE, help="default: %(default)s")
    return parser


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write or check the table. Raises InputError where it is not fresh."""
    before = read_page(args.file)
    after = with_table(before, BEGIN, END, "\n".join(rows()), args.file)
    if not args.check:
        write_page(args.file, after)
    elif after != before:
        raise InputError(f"{args.file} is not fresh: run python tools/policy_table.py.")
    return {"file": str(args.file), "fresh": True}


def main(argv: Sequence[str]) -> str | None:
    """Write or check the table; returns what is wrong."""
    return problem_of(sys.modules[__name__], argv)


def rows() -> Iterator[str]:
    """The table's lines, every policy with its default settings."""
    yield f"| {' | '.join(HEADS)} |"
    yield "|---" * len(HEADS) + "|"
    for name in POLICY_REGISTRY.names():
        if not POLICY_REGISTRY.get(name).takes_any_key:  # such a policy prunes nothing
            cells = ("yes" if can else "" for can in capabilities(name))
            yield f"| {name} | {' | '.join(cells)} |"


def capabilities(name: str) -> tuple[bool, ...]:
    """The row's cells in the order of the columns, from one training pass and one at inference."""
    policy, trained, tested = observed(name, seed=0)
    return (
        all(record.selection.total is not None for record in tested),
        policy.needs_class_token,
        # Several seeds, because some policies reactivate tokens rarely.
        any(brings_back(observed(name, seed=seed)[2]) for seed in range(SEEDS)),
        policy.adds_tokens,
        any(record.selection.parts is not None for record in tested),
        all(record.selection.gate is None for record in trained),
        _takes_a_budget(policy),
    )


def observed(name: str, *, seed: int) -> tuple[TokenPolicy, History, History]:
    """The policy, and the history of a pass in training and of one at inference."""
    torch.manual_seed(seed)
    policy = build_policy(name, shape=SHAPE)
    trunk = build_trunk(policy=policy, patch_size=4, embed_dim=24, num_heads=3)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        images = torch.randn(8, 3, 20, 28)
        return policy, trunk.train()(images).history, trunk.eval()(images).history


def brings_back(history: History) -> bool:
    """Whether some block keeps a token that the block before skipped."""
    keeps = [record.selection.keep for record in history]
    return any(bool((later & ~earlier).any()) for earlier, later in pairwise(keeps))


def _takes_a_budget(policy: TokenPolicy) -> bool:
    try:
        policy.set_keep_ratio(0.5)
    except InputError:
        return False
    return True
