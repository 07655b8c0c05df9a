"""The configs and weights that come with this package, found by name from any folder.

In a checkout both lie in configs/ beside the package, in an installation inside the package.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path, PurePosixPath

from svit_det.errors import InputError, refuse_url

YAML = ".yaml"
WEIGHTS = ".safetensors"


def get_config_file(name: str) -> str:
    """The path of the yaml `name`, such as "svit_t" or "demo/svit".

    "svit_t.yaml" and "configs/svit_t.yaml" name the same file. Raises InputError that names the
    nearest name.
    """
    return _get(name, YAML, "config")


def get_weights_file(name: str) -> str:
    """The path of the weights `name`, such as "demo/svit"; raises as `get_config_file` does."""
    return _get(name, WEIGHTS, "weights")


def config_names() -> list[str]:
    """Every config that a model can be built from, as "svit_t" or "demo/svit", sorted."""
    return [name for name in _names(YAML) if not name.startswith("base/")]


def find_config(path: str) -> str:
    """`path` where such a file exists; else the shipped yaml of this name.

    A bare name can only mean a shipped yaml; an unknown one raises InputError with the nearest
    name. So does the path of a missing yaml that may be meant as a shipped one: a relative path, or
    a path below a folder named configs. Any other path comes back unchanged, so that the code that
    reads it reports the missing file.
    """
    refuse_url(path)
    found = _find(path, YAML)
    if _may_be_shipped(found):
        bare = _bare(f"/{found}".rpartition("/configs/")[2].lstrip("/"), YAML)
        nearest = difflib.get_close_matches(bare, config_names(), n=1, cutoff=0.0)
        hint = f"; the nearest config that ships is '{nearest[0]}'" if nearest else ""
        raise InputError(f"{found}: no such file{hint}.")
    return found


def find_weights(path: str) -> str:
    """`path`, or the shipped weights of this name; a bare name of no shipped weights raises."""
    return _find(path, WEIGHTS)


def existing_weights(weights: str, *, name: str = "--weights") -> str:
    """The file of this path or of the shipped weights of this name. Raises InputError for none."""
    refuse_url(weights, name=name)
    path = find_weights(weights)
    if not os.path.isfile(path):
        there = "a folder, a pipe or a device, not a file" if os.path.exists(path) else None
        raise InputError(f"{name} {weights}: {there or 'no such file'}.")
    return path


def config_folder() -> Path:
    """The folder of the shipped configs and weights."""
    package = Path(__file__).resolve().parent
    inside, beside = package / "configs", package.parent / "configs"
    return inside if inside.is_dir() else beside


def find_config_folder(path: str) -> Path | None:
    """`path` where such a folder exists; else the shipped folder of this name, such as
    "digits/compare", or None."""
    shipped = config_folder() / _bare(path, "")
    return next((each for each in (Path(path), shipped) if os.path.isdir(each)), None)


def _names(suffix: str) -> list[str]:
    folder = config_folder()
    found = (path.relative_to(folder) for path in folder.rglob(f"*{suffix}"))
    return sorted(path.with_suffix("").as_posix() for path in found)


def _bare(name: str, suffix: str) -> str:
    """The bare name: "demo/svit" for "configs/demo/svit.yaml"."""
    return PurePosixPath(name).as_posix().removeprefix("configs/").removesuffix(suffix)


def _may_be_shipped(path: str) -> bool:
    """Whether `path` is that of a missing yaml, and perhaps meant as one of the shipped ones."""
    pure = PurePosixPath(path)
    is_yaml = pure.suffix in (YAML, ".yml") and not os.path.exists(path)
    return is_yaml and (not pure.is_absolute() or "configs" in pure.parts)


def _get(name: str, suffix: str, what: str) -> str:
    names, bare = _names(suffix), _bare(name, suffix)
    if bare in names:
        return str(config_folder() / f"{bare}{suffix}")
    nearest = difflib.get_close_matches(bare, names, n=1, cutoff=0.0)
    hint = f"the nearest is '{nearest[0]}'" if nearest else f"there are none in {config_folder()}"
    raise InputError(f"No {what} '{name}' ships with svit_det; {hint}.")


def _find(path: str, suffix: str) -> str:
    if not path or os.path.isfile(path):
        return path
    if _bare(path, suffix) in _names(suffix):
        return _get(path, suffix, "")
    is_bare = not PurePosixPath(path).suffix and not Path(path).is_absolute()
    return _get(path, suffix, "config" if suffix == YAML else "weights") if is_bare else path
