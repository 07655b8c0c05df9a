"""Whether a COCO json can be trained on and evaluated against, said before either begins.

`check` reads a file and judges it as a whole, `entries` its images and annotations one by one with
the help of `boxes`, `polygons` and `runs` (run-length encoded masks), `files` the images on disk;
`findings` counts, `cleaned` writes a set anew without what cannot be used.
"""

from svit_det.annotations.check import Demands, Examined, examine
from svit_det.annotations.cleaned import cleaned_file, list_file, write_cleaned
from svit_det.annotations.json_file import read_json

__all__ = [
    "Demands",
    "Examined",
    "cleaned_file",
    "examine",
    "list_file",
    "read_json",
    "write_cleaned",
]
