import os

import cv2
import numpy as np
import pytest

from svit_det.errors import InputError
from svit_det.tokens import TokenGrid
from svit_det.visualization import (
    KEPT,
    SKIPPED_FOR_GOOD,
    USED_LATER,
    depth_map,
    draw_attention_maps,
    draw_heatmap,
    draw_keep_maps,
    side_by_side,
    token_fates,
    write_image,
)

FEWEST = (13, 8, 135)  # the two ends of the plasma scale
MOST = (240, 249, 33)


def plain(height, width, value=201):
    return np.full((height, width, 3), value, np.uint8)


def used_by(layers, depth):
    """keep of `layers` blocks whose first `depth[y][x]` blocks process token (y, x)."""
    return np.arange(layers)[:, None, None] < np.array(depth)


@pytest.fixture
def texts(monkeypatch):
    """Every text that is drawn."""
    drawn = []
    real = cv2.putText

    def record(image, text, *args):
        drawn.append(text)
        return real(image, text, *args)

    monkeypatch.setattr(cv2, "putText", record)
    return drawn


def test_depth_counts_blocks():
    keep = np.array([[[1, 1, 1]], [[0, 1, 0]], [[0, 1, 1]]], bool)
    assert depth_map(keep).tolist() == [[1, 3, 2]]


def test_a_skipped_token_is_told_from_one_that_is_never_used_again():
    keep = np.array([[[1, 1, 0, 0]], [[0, 0, 0, 1]], [[1, 0, 0, 0]], [[0, 0, 0, 0]]], bool)
    later, gone = USED_LATER, SKIPPED_FOR_GOOD
    assert token_fates(keep)[:, 0].tolist() == [
        [KEPT, KEPT, gone, later],
        [later, gone, gone, KEPT],
        [KEPT, gone, gone, gone],
        [gone, gone, gone, gone],
    ]


def test_heatmap_colours_each_token_up_to_its_border():
    keep = used_by(4, [[0, 4], [4, 0]])
    picture = draw_heatmap(plain(300, 512), keep, grid=TokenGrid((300, 512), 256), alpha=1)
    expected = np.full((300, 512, 3), MOST, np.uint8)
    expected[:256, :256] = expected[256:, 256:] = FEWEST
    np.testing.assert_array_equal(picture[:300, :512], expected)


def test_the_scale_does_not_depend_on_what_is_drawn():
    size = {"grid": TokenGrid((256, 512), 256)}
    one, other = (
        draw_heatmap(plain(256, 512), used_by(12, [depth]), **size) for depth in ([3, 7], [7, 12])
    )
    np.testing.assert_array_equal(one[0, 500], other[0, 0])  # depth 7 in both
    np.testing.assert_array_equal(one[:, 512:], other[:, 512:])  # the colour bar
    assert not np.array_equal(one[0, 0], other[0, 0])


def test_the_scale_ends_at_the_number_of_blocks_and_starts_at_lowest():
    size = {"grid": TokenGrid((512, 512), 512), "alpha": 1}
    image = plain(512, 512)
    assert tuple(draw_heatmap(image, used_by(3, [[3]]), **size)[0, 0]) == MOST
    assert tuple(draw_heatmap(image, used_by(12, [[3]]), **size)[0, 0]) not in (MOST, FEWEST)
    assert tuple(draw_heatmap(image, used_by(12, [[3]]), lowest=3, **size)[0, 0]) == FEWEST


def test_heatmap_mixes_the_colour_with_the_grey_image():
    image = plain(512, 512, (100, 0, 0))  # brightness 30, drawn with half the contrast: 79
    size = {"grid": TokenGrid((512, 512), 512)}
    keep = used_by(4, [[4]])
    assert tuple(draw_heatmap(image, keep, alpha=0, **size)[0, 0]) == (79, 79, 79)
    half = draw_heatmap(image, keep, **size)[0, 0].astype(float)
    np.testing.assert_allclose(half, (np.array(MOST) + 79) / 2, atol=0.51)


def test_colour_bar_has_a_swatch_and_a_number_per_block(texts):
    keep = used_by(4, [[4]])
    picture = draw_heatmap(
        plain(512, 512), keep, grid=TokenGrid((512, 512), 512), alpha=1, lowest=1
    )
    column = picture[:, 512 + 12]  # the gap is one text height
    colours, starts = np.unique(column, axis=0, return_index=True)
    assert sorted(starts) == [0, 128, 256, 384] and len(colours) == 4
    assert tuple(column[0]) == MOST and tuple(column[-1]) == FEWEST
    assert texts == ["4", "3", "2", "1", "blocks that used the token"]


def test_numbers_of_a_low_colour_bar_do_not_touch(texts):
    draw_heatmap(plain(16, 512), used_by(24, [[9]]), grid=TokenGrid((16, 512), 512))
    assert texts[:2] == ["24", "19"]


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [
        ((1, 1), (512, 512)),
        ((256, 256), (512, 512)),
        ((480, 640), (480, 640)),
        ((200, 20000), (20, 2048)),
        ((20000, 10), (2048, 1)),
    ],
)
def test_drawn_sizes(shape, drawn):
    keep = used_by(3, [[3]])
    picture = draw_heatmap(plain(*shape), keep, grid=TokenGrid((64, 64), 64), alpha=1)
    is_most = (picture[:, : drawn[1]] == MOST).all(axis=-1)
    assert is_most[: drawn[0]].all()
    assert not is_most[drawn[0] :].any()
    assert picture.shape[1] > drawn[1] + 24
    assert not (picture[:, drawn[1]] == MOST).all(axis=-1).any()
    maps = draw_keep_maps(plain(*shape), keep, grid=TokenGrid((64, 64), 64))
    assert 512 <= maps.shape[1] < 2200 and maps.shape[0] < 2200


def tile_rows(picture, margin):
    """Runs of rows that are not white in the first column of the tiles, where no text stands."""
    rows = np.flatnonzero((picture[:, margin] != 255).any(axis=-1))
    return np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)


def test_keep_maps_tint_each_fate_apart_and_leave_kept_tokens_alone(texts):
    keep = np.array([[[1, 1]], [[0, 0]], [[1, 0]]], bool)
    picture = draw_keep_maps(plain(50, 512), keep, grid=TokenGrid((50, 512), 256), columns=1)
    margin = 17  # one text height
    *tiles, legend = tile_rows(picture, margin)
    assert [len(rows) for rows in tiles] == [50, 50, 50] and len(legend) >= margin
    kept, later, gone = (201, 201, 201), (211, 143, 60), (52, 84, 136)
    for rows, (left, right) in zip(tiles, [(kept, kept), (later, gone), (kept, gone)], strict=True):
        tile = picture[rows, margin : margin + 512]
        assert (tile[:, :256] == left).all() and (tile[:, 256:] == right).all()
        assert picture[rows[0] - 25 : rows[0], margin : margin + 200].min() < 100  # its caption
    assert texts == [
        "block 0  kept 100 %",
        "block 1  kept 0 %",
        "block 2  kept 50 %",
        "kept, untinted",
        "skipped, used later",
        "skipped for good",
    ]


def test_keep_maps_are_laid_out_in_rows_of_columns():
    keep = np.ones((5, 4, 4), bool)
    size = {"grid": TokenGrid((256, 256), 64)}
    pictures = {
        columns: draw_keep_maps(plain(256, 256), keep, columns=columns, **size)
        for columns in (1, 2, 4, 100)
    }
    assert {columns: len(tile_rows(p, 12)) for columns, p in pictures.items() if columns > 1} == {
        2: 3 + 1,
        4: 2 + 1,
        100: 1 + 1,
    }
    for columns in (4, 100):
        assert pictures[columns].shape[1] == min(columns, 5) * (256 + 12) + 12


def test_attention_maps_scale_each_block_to_its_own_maximum(texts):
    attention = np.array([[[0.2, 0.4]], [[0.03, 0.0]]])
    picture = draw_attention_maps(
        plain(50, 512), attention, grid=TokenGrid((50, 512), 256), columns=1
    )
    first, second = (picture[rows, 17 : 17 + 512] for rows in tile_rows(picture, 17))
    grey = 201 / 2 + 64
    most, least = (np.round(0.65 * np.array(end) + 0.35 * grey) for end in (MOST, FEWEST))
    assert (first[:, 256:] == most).all() and (first[:, :256] != most).any(axis=-1).all()
    assert (second[:, :256] == most).all() and (second[:, 256:] == least).all()
    assert texts == ["block 0  60 % on patches", "block 1  3 % on patches"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"attention": np.ones((2, 1))},
        {"attention": np.full((1, 1, 1), -0.1)},
        {"attention": np.full((1, 1, 1), np.nan)},
        {"attention": np.ones((0, 1, 1))},
        {"columns": 0},
        {"image": plain(8, 8)[..., 0]},
    ],
)
def test_what_is_no_attention_is_refused(wrong):
    good = {"image": plain(8, 8), "attention": np.ones((1, 1, 1))}
    good |= {"grid": TokenGrid((8, 8), 8)}
    draw_attention_maps(**good)
    with pytest.raises(ValueError, match=r"\.$"):
        draw_attention_maps(**{**good, **wrong})


def test_captions_always_fit_above_their_tiles(texts):
    keep = np.ones((48, 1, 1), bool)
    draw_keep_maps(plain(300, 10), keep, grid=TokenGrid((64, 64), 64), columns=48)
    assert "block 47  kept 100 %" in texts  # neither cut short


def test_side_by_side_scales_to_one_height_and_writes_the_captions(texts):
    strip = side_by_side(
        [plain(100, 300, 10), plain(400, 400, 20), plain(1, 1, 30)], ["a", "b\nc", "d"], height=200
    )
    assert texts == ["a", "b c", "d"]
    margin = 12
    widths = [int((strip[-margin - 1] == value).all(axis=-1).sum()) for value in (10, 20, 30)]
    assert widths == [600, 200, 200]
    assert (strip[-margin - 200, margin] == 10).all() and (
        strip[-margin - 201, margin] == 255
    ).all()
    assert (strip[-margin:] == 255).all()
    assert strip.shape[1] == 600 + 200 + 200 + 4 * margin


def test_side_by_side_keeps_the_pixels_of_a_picture_of_that_height():
    image = np.random.default_rng(0).integers(0, 256, (200, 150, 3), dtype=np.uint8)
    strip = side_by_side([image[:, ::-1]], ["mirrored"], height=200)
    np.testing.assert_array_equal(strip[-212:-12, 12:162], image[:, ::-1])


def test_side_by_side_cuts_a_caption_that_is_too_long_and_an_image_that_is_too_wide(texts):
    strip = side_by_side([plain(10, 20000), plain(200, 130)], ["", "x" * 300], height=200)
    assert strip.shape[1] == 2048 + 130 + 3 * 12
    assert texts[1].endswith("x...") and len(texts[1]) < 30


@pytest.mark.parametrize(
    ("images", "captions", "height"),
    [([], [], 100), ([plain(2, 2)], [], 100), ([plain(2, 2)], ["a"], 0)],
)
def test_side_by_side_refuses_what_does_not_pair_up(images, captions, height):
    with pytest.raises(ValueError, match=r"pair up|height"):
        side_by_side(images, captions, height=height)


@pytest.mark.parametrize("name", ["a.png", "b.PNG", "c.jpg", "d.jpeg"])
def test_written_images_are_read_back_in_rgb(tmp_path, name):
    image = plain(32, 48, (250, 120, 10))
    write_image(tmp_path / name, image)
    read = cv2.imread(str(tmp_path / name))[..., ::-1]
    np.testing.assert_allclose(read, image, atol=0 if name.lower().endswith("png") else 6)
    assert os.listdir(tmp_path) == [name]


def test_a_failed_write_leaves_the_old_picture_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, plain(2, 2, 7))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"a\.png: cannot be written \(No space left.*\)\.$"):
        write_image(path, plain(2, 2, 9))
    assert os.listdir(tmp_path) == ["a.png"]
    assert (cv2.imread(str(path)) == 7).all()


@pytest.mark.parametrize("answer", [(False, None), cv2.error("too large")])
def test_what_cannot_be_encoded_is_said_in_a_sentence(tmp_path, monkeypatch, answer):
    def imencode(*_):
        if isinstance(answer, cv2.error):
            raise answer
        return answer

    monkeypatch.setattr(cv2, "imencode", imencode)
    with pytest.raises(InputError, match="OpenCV cannot encode it"):
        write_image(tmp_path / "a.jpg", plain(1, 1))
    assert os.listdir(tmp_path) == []


def test_unwritable_places_are_said_in_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for name in ("file/a.png", "folder.png"):
        with pytest.raises(InputError, match=rf"{name}: cannot be written \([\w ]+\)\.$"):
            write_image(tmp_path / name, plain(1, 1))
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


KEEP = np.ones((3, 1, 1), bool)
GOOD = {"image": plain(8, 8), "keep": KEEP, "grid": TokenGrid((8, 8), 8)}


@pytest.mark.parametrize("draw", [draw_heatmap, draw_keep_maps])
@pytest.mark.parametrize(
    "wrong",
    [
        {"image": plain(8, 8)[..., 0]},
        {"image": plain(8, 8).astype(np.float32)},
        {"image": plain(0, 8)},
        {"keep": KEEP.astype(int)},
        {"keep": KEEP[0]},
        {"keep": KEEP[:0]},
        {"grid": TokenGrid((8, 8), 4)},
        {"grid": TokenGrid((8, 9), 8)},
    ],
)
def test_bad_input_is_refused(draw, wrong):
    draw(**GOOD)
    with pytest.raises(ValueError, match=r"\.$"):
        draw(**{**GOOD, **wrong})


@pytest.mark.parametrize(
    ("draw", "wrong"),
    [
        (draw_heatmap, {"alpha": 1.1}),
        (draw_heatmap, {"alpha": -0.1}),
        (draw_heatmap, {"lowest": 3}),
        (draw_heatmap, {"lowest": -1}),
        (draw_heatmap, {"lowest": 2, "keep": used_by(3, [[1]])}),
        (draw_keep_maps, {"columns": 0}),
        (write_image, {"path": "a.tiff", "rgb": plain(1, 1)}),
        (write_image, {"path": "a", "rgb": plain(1, 1)}),
        (write_image, {"path": "a.png", "rgb": plain(1, 1)[0]}),
    ],
)
def test_bad_options_are_refused(draw, wrong):
    with pytest.raises(ValueError, match=r"\.$"):
        draw(**(wrong if draw is write_image else {**GOOD, **wrong}))


def test_neither_input_is_changed():
    image, keep = plain(16, 512), used_by(4, [[1, 3]])
    before = image.copy(), keep.copy()
    for draw in (draw_heatmap, draw_keep_maps):
        draw(image, keep, grid=TokenGrid((16, 512), 256))
    side_by_side([image], ["a"], height=16)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(keep, before[1])
