"""The tables of docs/export.md: which policies export, how far from the model, and the shipped AP.

    svit-det export-table [--image-folder FOLDER] [--tables parity budget open ap refused]

The first table has every policy under both networks at toy size, on real pictures, in every format.
The second has --budget and --no-topk, and the third has open sizes. The fourth has the AP of the
shipped detectors and of their exported files. The fifth says what is refused, with the reason.
--policies NAME ... measures the named policies anew and leaves the other rows of the first three
tables as they are. The page is written after every policy, so that an interrupted run keeps its
rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from svit_det.cli.execution import problem_of
from svit_det.cli.export import fixed_count_options, has_budget
from svit_det.cli.export_ap import ap_rows
from svit_det.cli.export_refused import in_a_cell, refused_rows
from svit_det.cli.export_toy import NETWORKS, SIZE, toy_model
from svit_det.cli.pages import read_page, split_page, with_table, write_page
from svit_det.errors import InputError
from svit_det.export.backbone import BackboneGraph
from svit_det.export.build import Wanted, export_files, has_fixed_count
from svit_det.export.checks import compare
from svit_det.export.formats import FORMATS
from svit_det.export.running import load
from svit_det.files import scratch_folder
from svit_det.images import find_images, read_image, spread_out
from svit_det.policies import POLICY_REGISTRY
from svit_det.vit import find_token_net

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "export.md"
MARKS = "<!-- {} of tools/export_table.py: {} -->"
TABLES = ("parity", "budget", "open", "ap", "refused")
"""In the order of the page."""
BUDGET = 0.5
"""The share of tokens in the rows of --budget."""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--image-folder", default="datasets/nuclei/val", help="pictures; default: %(default)s")
    add("--tables", nargs="+", choices=TABLES, default=TABLES, help="default: all of them")
    add("--policies", nargs="+", metavar="NAME", help="of the first three tables; default: all")
    add("--file", type=Path, default=PAGE, help="default: %(default)s")
    return parser


def main(argv: Sequence[str]) -> str | None:
    """Measure, then write the tables into the page; returns what is wrong."""
    return problem_of(sys.modules[__name__], argv)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, then write the tables into the page."""
    measure(args)
    return {"file": str(args.file)}


def measure(args: argparse.Namespace) -> None:
    """Measure the wanted tables and write each into the page."""
    by_policy = [name for name in BY_POLICY if name in args.tables]
    if args.policies is not None and not by_policy:
        raise InputError(
            f"--policies: --tables {' '.join(args.tables)} has no rows to choose by policy; name "
            f"one of {', '.join(BY_POLICY)} in --tables, or leave --policies out."
        )
    policies = args.policies or POLICY_REGISTRY.names()
    for policy in policies:
        POLICY_REGISTRY.named(policy, "--policies")
    page = read_page(args.file)
    for name in args.tables:
        split_page(page, *marks(name), args.file)  # refuses a page without a place for the table
    pictures = []
    if by_policy:
        pictures = [picture(path) for path in spread_out(find_images([args.image_folder]), 2)]
    for name in by_policy:
        rows, head = BY_POLICY[name]
        kept = [] if args.policies is None else rows_of(page, name, args.file)
        found: dict[str, list[str]] = {}
        for policy in tqdm(policies, desc=name, unit="policy"):
            found[policy] = list(rows(policy, pictures))
            write_rows(args.file, name, [*head, *merged(kept, found)])
    if "ap" in args.tables:
        write_rows(args.file, "ap", ap_rows())
    if "refused" in args.tables:
        write_rows(args.file, "refused", refused_rows())


def marks(name: str) -> tuple[str, str]:
    """What stands before and behind the table of this name in the page."""
    return MARKS.format("begin", name), MARKS.format("end", name)


def write_rows(path: Path, name: str, rows: Iterable[str]) -> None:
    """Read the page anew, and put new rows into it."""
    table = "\n".join(rows)  # made before the page is read: a row takes minutes
    write_page(path, with_table(read_page(path), *marks(name), table, path))


def rows_of(page: str, name: str, path: Path) -> list[str]:
    """The rows of a table without its head."""
    lines = split_page(page, *marks(name), path)[1].strip().splitlines()
    return [line for line in lines if line.startswith("| ")][1:]


def merged(kept: Iterable[str], found: Mapping[str, list[str]]) -> list[str]:
    """New rows in place of the old ones of the same policy, in the order of the registry."""
    by_policy: dict[str, list[str]] = {}
    for row in kept:
        by_policy.setdefault(row.split()[1], []).append(row)
    by_policy |= found
    return [row for policy in sorted(by_policy) for row in by_policy[policy]]


def picture(path: Path) -> Tensor:
    """(1, 3, height, width): the upper left corner of a picture, of the toy size."""
    pixels = read_image(path, "RGB")[: SIZE[0], : SIZE[1]]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0).float()


# ------------------------------------------------------------------ every policy, at toy size


def parity_head(third: str) -> tuple[str, str]:
    """The head of a table whose rows have a policy, a network, `third`, and a cell each format."""
    columns = ("policy", "network", third, *FORMATS)
    return f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"


def parity_rows(policy: str, pictures: Sequence[Tensor]) -> Iterator[str]:
    """Rows with the largest difference of the maps in each format, or the reason for none."""
    for options in dict.fromkeys(((), tuple(fixed_count_options(policy)))):
        for network in NETWORKS:
            model = toy_model(policy, options, network, pictures)
            cells = cells_of(model, pictures)
            yield row_of(model, policy, options, network, cells)


def row_of(
    model: nn.Module, policy: str, options: Sequence[str], network: str, cells: Sequence[str]
) -> str:
    """A row: policy, network, whether the count is fixed, and a cell for each format."""
    label = f"{policy} `{options[-1]}`" if options else policy
    fixed = has_fixed_count(find_token_net(model), SIZE)
    kept = "fixed number" if fixed else "by image"
    return f"| {label} | {network} | {kept} | {' | '.join(cells)} |"


def budget_rows(policy: str, pictures: Sequence[Tensor]) -> Iterator[str]:
    """Rows as in `parity_rows` for --budget, where the policy has fixed counts, and --no-topk."""
    budget = ("MODEL.TOKEN_POLICY.TEST_KEEP_RATIO", str(BUDGET), *fixed_count_options(policy))
    for network in NETWORKS:
        model = toy_model(policy, budget if has_budget(policy) else (), network, pictures)
        if has_budget(policy) and has_fixed_count(find_token_net(model), SIZE):
            cells = cells_of(model, pictures)
            yield f"| {policy} | {network} | `--budget {BUDGET}` | {' | '.join(cells)} |"
        model = toy_model(policy, (), network, pictures)
        cells = cells_of(model, pictures, topk=False)
        yield f"| {policy} | {network} | `--no-topk` | {' | '.join(cells)} |"


def open_rows(
    policy: str, pictures: Sequence[Tensor], *, networks: Sequence[str] = tuple(NETWORKS)
) -> Iterator[str]:
    """Rows as in `parity_rows`, with open height and width."""
    for options in dict.fromkeys(((), tuple(fixed_count_options(policy)))):
        for network in networks:
            model = toy_model(policy, options, network, pictures)
            cells = [cell_or_reason(model, name, pictures, dynamic_size=True) for name in FORMATS]
            yield row_of(model, policy, options, network, cells)


BY_POLICY = {
    "parity": (parity_rows, parity_head("tokens kept")),
    "budget": (budget_rows, parity_head("option")),
    "open": (open_rows, parity_head("tokens kept")),
}
"""The tables that are measured policy by policy: their rows, and their heads."""


def cells_of(model: nn.Module, pictures: Sequence[Tensor], **wanted: Any) -> list[str]:
    """The cell of each format; all files come from one program where every format can export.

    `wanted`: fields of Wanted.
    """
    try:
        return exported_cells(model, tuple(FORMATS), pictures, **wanted)
    except InputError:
        return [cell_or_reason(model, name, pictures, **wanted) for name in FORMATS]


def cell_or_reason(model: nn.Module, name: str, pictures: Sequence[Tensor], **wanted: Any) -> str:
    """The cell of one format: the largest difference, or the reason why the export fails."""
    try:
        return exported_cells(model, (name,), pictures, **wanted)[0]
    except InputError as problem:
        return in_a_cell(f"no: {problem}")


def exported_cells(
    model: nn.Module, formats: tuple[str, ...], pictures: Sequence[Tensor], **wanted: Any
) -> list[str]:
    """The largest difference of each format's maps from the model's, on real pictures."""
    cells = []
    with scratch_folder() as folder:
        asked = Wanted(part="backbone", size=SIZE, formats=formats, **wanted)
        export_files(model, asked, folder)
        for name in formats:
            run, _ = load(folder / f"backbone{FORMATS[name][-1]}")
            parity = compare(BackboneGraph(model), run, pictures)
            cells.append(f"{parity.difference:.0e}" if parity.same_kept else f"no: {parity}")
    return cells
