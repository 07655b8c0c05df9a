"""Checks whether a COCO json fits training and evaluation, before either of them begins.

`check` reads a file and judges it as a whole. `entries` judges its images and annotations one by
one, with the help of `boxes`, `polygons` and `runs` (run-length encoded masks); `files` judges the
images on disk. `findings` counts the problems. `cleaned` writes a set without its unusable entries.
"""

from svit_det.annotations.check import Demands, Examined, examine
from svit_det.annotations.cleaned import (
    cleaned_file,
    list_file,
    remove_cleaned,
    was_cleaned,
    write_cleaned,
)
from svit_det.annotations.json_file import read_json

__all__ = [
    "Demands",
    "Examined",
    "cleaned_file",
    "examine",
    "list_file",
    "read_json",
    "remove_cleaned",
    "was_cleaned",
    "write_cleaned",
]
