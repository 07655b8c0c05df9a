"""Files inside a Qt resource (.rcc), the archive in which Qt programs carry their pictures.

Format: Qt's `rcc`, versions 1 to 3, big-endian. The head holds four numbers: the version, and the
places of tree, data and names. The tree holds entries of fixed size. A folder's entry gives the
count and the first number of its children; a file's entry gives a place in the data.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from svit_det.errors import InputError

_MAGIC = b"qres"
_COMPRESSED, _FOLDER, _ZSTD = 1, 2, 4
_ENTRY_SIZES = {1: 14, 2: 22, 3: 22}
"""Bytes of an entry by version; from version 2 on an entry holds a date too."""
_DEEPEST = 64
"""Most folders within folders, more than any program nests: a damaged tree may run in a circle."""


@dataclass(frozen=True)
class _Resource:
    data: bytes
    entry_size: int
    tree: int
    contents: int
    names: int

    def numbers(self, pattern: str, place: int) -> tuple[int, ...]:
        if place < 0:
            raise struct.error("a place before the beginning")
        return struct.unpack_from(pattern, self.data, place)

    def name(self, offset: int) -> str:
        place = self.names + offset
        (letters,) = self.numbers(">H", place)
        return self.piece(place + 6, 2 * letters).decode("utf-16-be")

    def piece(self, start: int, size: int) -> bytes:
        if start + size > len(self.data):
            raise struct.error("it ends too early")
        return self.data[start : start + size]

    def walk(self, number: int, path: str, depth: int = 0) -> Iterator[tuple[str, int, int]]:
        """(path, flags, offset in the data) of every file below an entry."""
        if depth > _DEEPEST:
            raise struct.error("its folders run in a circle")
        place = self.tree + number * self.entry_size
        name, flags = self.numbers(">IH", place)
        path = f"{path}/{self.name(name)}" if number else ""
        if flags & _FOLDER:
            count, first = self.numbers(">II", place + 6)
            for child in range(first, first + count):
                yield from self.walk(child, path, depth + 1)
        else:
            yield path, flags, self.numbers(">I", place + 10)[0]

    def content(self, flags: int, offset: int) -> bytes:
        place = self.contents + offset
        stored = self.piece(place + 4, self.numbers(">I", place)[0])
        # Four bytes with the uncompressed size stand before the data compressed by zlib.
        return zlib.decompress(stored[4:]) if flags & _COMPRESSED else stored


def read_qt_resources(
    data: bytes, wanted: Callable[[str], bool], *, source: str
) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the files of a resource whose path, as in /folder/name.png, is `wanted`.

    No file is written, so that a path cannot do harm. `source` names the resource in messages.
    Raises InputError for data that is no resource or is damaged, and for a wanted file that is
    compressed with zstd.
    """
    try:
        resource = _opened(data, source)
        for path, flags, offset in resource.walk(0, ""):
            if not wanted(path):
                continue
            if flags & _ZSTD:
                raise InputError(
                    f"{source}: {path} is compressed with zstd, which is not read here."
                )
            yield path, resource.content(flags, offset)
    except (struct.error, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{source}: a damaged Qt resource ({error}); get it again.") from error


def _opened(data: bytes, source: str) -> _Resource:
    if data[:4] != _MAGIC:
        raise InputError(f"{source}: not a Qt resource, which begins with {_MAGIC.decode()}.")
    version, tree, contents, names = struct.unpack_from(">IIII", data, 4)
    if version not in _ENTRY_SIZES:
        raise InputError(
            f"{source}: a Qt resource of version {version}; versions 1 to 3 can be read."
        )
    return _Resource(data, _ENTRY_SIZES[version], tree, contents, names)
