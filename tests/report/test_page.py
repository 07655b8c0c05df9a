"""The page without a browser: what is in it, what is escaped, and that it asks for nothing."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from svit_det.errors import InputError
from svit_det.report.overlays import PHOTO_SIDE, photo
from svit_det.report.page import percent, render_page
from svit_det.report.statistics import ArmStatistics
from svit_det.tokens import TokenGrid

VOID = {"meta", "link", "img", "input", "br"}


class Reader(HTMLParser):
    """Collects tags with their attributes, and complains about what is not closed."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_names_are_texts_wherever_they_stand(page_of, hostile):
    page = page_of()
    reader = read(page)
    assert [tag for tag, _ in reader.tags].count("script") == 1
    assert hostile not in page
    text = "".join(reader.text)
    for words in (f"About {hostile}", f"arm 1{hostile}", f"0{hostile}.png"):
        assert words in text
    assert f"{hostile} 60 %" in text  # the class of a detection


@pytest.mark.parametrize("arms", [1, 2])
@pytest.mark.parametrize("annotated", [True, False])
def test_nothing_is_asked_of_any_address(page_of, arms, annotated):
    page = page_of(arms, annotated=annotated)
    for tag, attributes in read(page).tags:
        for name in ("src", "href", "data", "action", "srcset", "poster"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:")), (tag, value[:80])
    assert re.findall(r"url\((?!data:)", page) == []
    assert re.findall(r"(?:https?:)?//\w", re.sub(r"base64,[^\s\")]+", "", page)) == []


def test_the_policy_lets_this_script_run_and_no_other(page_of):
    page = page_of()
    script = re.search(r"<script>(.*)</script>", page, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page and "default-src 'none'" in page


def test_every_control_has_a_name_and_every_id_is_one(page_of):
    tags = read(page_of()).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in tags:
        for name in ("aria-labelledby", "href"):
            target = attributes.get(name, "").removeprefix("#")
            if target and not target.startswith("data:"):
                assert target in ids
        if attributes.get("role") in ("img", "region"):
            assert attributes["aria-label"]
        if tag == "img":
            assert "alt" in attributes


def test_without_annotations_there_are_no_columns_for_them(page_of):
    assert "on annotations" in page_of() and "on annotations" not in page_of(annotated=False)


def test_pictures_are_shrunk(picture_of):
    wide = np.zeros((40, 9000, 3), np.uint8)
    keep = np.ones((6, 1, 225), bool)
    picture = replace(picture_of(0, 0), image=wide, keep=keep, grid=TokenGrid((40, 9000), 40))
    data = np.frombuffer(base64.b64decode(photo(picture).split(",")[1]), np.uint8)
    assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape == (4, PHOTO_SIDE, 3)


def test_a_report_over_nothing_is_refused():
    with pytest.raises(InputError, match="no picture to show"):
        render_page([ArmStatistics(label="a")], [], title="t", facts=[])


def test_percent():
    assert percent(0.123) == "12 %" and percent(float("nan")) == "–"
