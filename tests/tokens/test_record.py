"""The record of two blocks on a 2 x 3 grid, two images, typed out."""

import torch

from svit_det.tokens import BlockRecord, PassRecord, RowCounts, Selection, TokenGrid, TokenState

GRID = TokenGrid.of_tokens(2, 3)
FIRST = [[1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 1, 0]]
SECOND = [[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
QUERIES = [[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]]
SCORES = torch.arange(12.0).view(2, 6)


def mask(rows):
    return torch.tensor(rows).bool()


def block_record(keep, queries, **selection):
    """A block without extra tokens whose keys are its queries."""
    queries = mask(queries)
    rows = tuple(queries.sum(dim=1).tolist())
    kept = tuple(mask(keep).sum(dim=1).tolist())
    return BlockRecord(
        selection=Selection(keep=mask(keep), **selection),
        keys=queries,
        queries=queries,
        mlp=mask(keep),
        rows=RowCounts(rows, rows, kept),
        size=6,
    )


def a_record():
    return PassRecord(
        blocks=(
            block_record(FIRST, FIRST, score=SCORES),
            block_record(SECOND, QUERIES, score=10 * SCORES),
        ),
        grid=GRID,
        notes={},
        tokens=torch.zeros(2, 6, 4),
    )


def test_keep_maps_are_row_major():
    maps = a_record().keep_maps()
    assert maps.dtype == torch.bool
    assert maps.int().tolist() == [
        [[[1, 1, 1], [1, 1, 1]], [[1, 1, 0], [0, 0, 0]]],
        [[[1, 0, 1], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]]],
    ]


def test_the_maps_of_one_image_lose_its_padding():
    two_columns, one_row = TokenGrid.of_tokens(2, 2), TokenGrid.of_tokens(1, 3)
    assert a_record().image_keep_maps(1, two_columns).int().tolist() == [
        [[1, 0], [0, 1]],
        [[0, 0], [0, 0]],
    ]
    assert a_record().image_keep_maps(0, one_row).int().tolist() == [[[1, 1, 1]], [[1, 1, 0]]]
    assert a_record().image_score_maps(1, two_columns).tolist() == [
        [[6, 7], [9, 10]],
        [[60, 70], [90, 100]],
    ]


def test_counts():
    assert a_record().counts().tolist() == [[6, 2], [3, 0]]


def test_the_rows_of_a_block_say_where_fewer_went_on_to_the_mlp():
    second = a_record().blocks[1]
    assert second.rows.queries == (4, 1)
    assert second.rows.mlp == (2, 0)
    assert torch.equal(second.took_part, mask(QUERIES))


def test_a_token_that_skips_the_attention_may_take_part():
    record = block_record(FIRST, SECOND)
    assert torch.equal(record.took_part, mask(FIRST))


def test_kept_shares_are_shares_of_the_batch():
    assert torch.equal(a_record().kept_shares(), torch.tensor([9 / 12, 2 / 12]))


def test_everyone_is_known_from_the_total_alone():
    assert block_record(FIRST, FIRST, total=6).everyone
    assert not block_record(FIRST, FIRST, total=4).everyone
    assert not block_record([[1] * 6] * 2, [[1] * 6] * 2).everyone


def test_the_record_of_a_finished_state():
    blocks = a_record().blocks
    state = TokenState(
        tokens=torch.randn(2, 7, 4), num_extra=1, grid=GRID, notes={"A": 3}, history=blocks
    )
    record = PassRecord.of(state, 2 * state.patches)
    assert record.blocks is blocks and record.grid == GRID and record.notes == {"A": 3}
    assert torch.equal(record.tokens, 2 * state.tokens[:, 1:])
