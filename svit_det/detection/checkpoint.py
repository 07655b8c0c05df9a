"""Checkpoints: no model is loaded by half, files are written whole and describe themselves."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from svit_det.detection.untrained import allow_untrained
from svit_det.errors import InputError, printable, refuse_url
from svit_det.files import write_whole
from svit_det.shipped import find_weights
from svit_det.training.finite import check_finite, not_finite, optimizer_tensors, some_of
from svit_det.weights.files import DESCRIPTION, read_checkpoint, write_checkpoint
from svit_det.weights.foreign import check_file
from svit_det.weights.kinds import check_kinds
from svit_det.weights.match import (
    CLASS_TOKEN,
    OtherClasses,
    architecture_mismatch,
    other_classes,
    some,
)

logger = logging.getLogger(__name__)

LONGEST_NAME = 255
"""Most characters of a file's name."""


class TokenCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer for `.pth` and `.safetensors`.

    A file is data: pickles that would run code are refused. An address is refused, because
    detectron2 would download from it. detectron2's suffix matching of names is refused too, because
    it puts DeiT's final norm into a gate. A module is loaded whole or not at all. A module without
    any stored weight (a fresh head, new gates) starts as initialised and is named in the log; a
    module with some but not all of its weights is an error, and so is a stored weight that fits
    nowhere.

    describe: called at each save; its result is kept in the file under `DESCRIPTION`.
    fresh_classes: for training. Weights for another number of classes may be loaded; the parts of
    the heads that count classes then start as initialised. Without `fresh_classes` such weights are
    refused, because a model with random heads detects nothing.
    refuse_untrained: for evaluation. A file without weights for gates or whole parts is refused,
    because these would decide and detect at random. A missing class token alone is named in the log
    and allowed, because its attention is informative even so.
    check_resume: called with path and content before a run goes on; it may raise InputError.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        describe: Callable[[], Mapping[str, Any] | None] | None = None,
        fresh_classes: bool = False,
        refuse_untrained: bool = False,
        check_resume: Callable[[str, Mapping[str, Any]], None] | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self._describe = describe
        self._fresh_classes = fresh_classes
        self._refuse_untrained = refuse_untrained
        self._check_resume = check_resume

    def save(self, name: str, **kwargs: Any) -> None:
        """As detectron2's `save`, with a description. The old file stays until the new is whole.

        Raises InputError where the file cannot be written.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content |= {key: each.state_dict() for key, each in self.checkpointables.items()}
        content |= kwargs
        said = self._describe() if self._describe is not None else None
        if said is not None:
            content[DESCRIPTION] = dict(said)
        path = Path(self.save_dir) / f"{name}.pth"
        self._check_finite(content, path)
        self.logger.info("Saving checkpoint to %s", path)
        write_checkpoint(content, path)
        self.tag_last_checkpoint(path.name)

    def _check_finite(self, content: Mapping[str, Any], path: Path) -> None:
        """Refuse numbers that are not finite, which must not replace the last good checkpoint."""
        state = content.get("trainer", {}).get("_trainer", {}).get("optimizer", {})
        bad = not_finite(content["model"]) or not_finite(optimizer_tensors(state))
        if bad:
            raise InputError(
                f"{path}: not written, because numbers are not finite in {some_of(bad)}; the last "
                "checkpoint stays. Begin again from it with a lower SOLVER.BASE_LR."
            )

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """As detectron2's method, but `last_checkpoint` always names an existing file."""
        with write_whole(Path(self.save_dir) / "last_checkpoint") as partial:
            partial.write_text(last_filename_basename)

    def get_checkpoint_file(self) -> str:
        """As detectron2's method. Raises InputError where `last_checkpoint` names no file.

        detectron2 would begin a new training without a word if it cannot read `last_checkpoint`.
        """
        tag = Path(self.save_dir) / "last_checkpoint"
        what = "write the name of a checkpoint of that folder into it"
        try:
            if not stat.S_ISREG(os.stat(tag).st_mode):
                raise InputError(f"{tag}: a folder, a pipe or a device; remove it.")
            with tag.open("rb") as file:
                name = file.read(LONGEST_NAME + 1).decode().strip()
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            said = error.strerror if isinstance(error, OSError) else "it holds no name of a file"
            raise InputError(f"{tag}: cannot be read ({said}); {what}, or remove it.") from error
        path = Path(self.save_dir) / name
        if len(name) > LONGEST_NAME or name != path.name:
            raise InputError(f"{tag}: names no file of its folder; {what}.")
        if not os.path.isfile(path):
            raise InputError(f"{tag}: names {path}, which is no file; {what}.")
        return str(path)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """As detectron2's `load`. Raises InputError that names the file and the keys."""
        if "matching_heuristics" in path:
            raise InputError(
                f"MODEL.WEIGHTS {path}: matching_heuristics would load weights into gates they do "
                "not belong to; convert the file instead."
            )
        refuse_url(path, name="MODEL.WEIGHTS")
        if path:
            path = find_weights(path)
            check_file(path)
        self._path = path
        self._states = set(self.checkpointables if checkpointables is None else checkpointables)
        try:
            return super().load(path, checkpointables)
        finally:
            self._parsed_url_during_load = None  # detectron2 clears this only after a success

    def _load_file(self, filename: str) -> dict[str, Any]:
        return read_checkpoint(filename)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        weights = checkpoint["model"]
        check_finite(weights, source=self._path, model=self.model.state_dict())
        if self._check_resume is not None and "trainer" in self._states:
            self._check_resume(self._path, checkpoint)
        shapes = {name: tuple(value.shape) for name, value in self.model.state_dict().items()}
        given = {name: tuple(value.shape) for name, value in weights.items()}
        other = other_classes(shapes, given)
        fresh = [] if other is None else other.names
        problems = architecture_mismatch(shapes, given | {name: shapes[name] for name in fresh})
        if problems:
            raise InputError(
                f"{self._path}: these weights are of another architecture: {'; '.join(problems)}."
            )
        check_kinds(self.model.state_dict(), weights, source=self._path)
        if other is not None:
            self._check_classes(other, resumes=not self._states.isdisjoint(checkpoint))
        untrained = [
            name
            for name, _ in self.model.named_parameters()
            if name not in weights and not name.endswith(CLASS_TOKEN)
        ]
        if untrained and self._refuse_untrained:
            raise InputError(
                f"{self._path}: has no trained weights for {some(untrained)}, which hold random "
                f"numbers; {_what_to_do(untrained)}, or give --allow-untrained "
                "(allow_untrained=True in code)."
            )
        checkpoint["model"] = {name: w for name, w in weights.items() if name not in fresh}
        for name in shapes:
            if name.endswith(CLASS_TOKEN) and name not in weights:
                logger.warning("%s has no class token: %s starts at random.", self._path, name)
        incompatible = super()._load_model(checkpoint)
        # fvcore logs these names as they stand in the file.
        incompatible.unexpected_keys[:] = map(printable, incompatible.unexpected_keys)
        allow_untrained(self.model)  # judged above
        if other is not None:
            # The warning below names these keys; keys left in `missing_keys` would be named again.
            incompatible.missing_keys[:] = [n for n in incompatible.missing_keys if n not in fresh]
            logger.warning(
                "%s has %s, this model %d: %s start as initialised.",
                self._path,
                _classes(other.given),
                other.wanted,
                ", ".join(other.names),
            )
        return incompatible

    def _check_classes(self, other: OtherClasses, *, resumes: bool) -> None:
        """Refuse another number of classes if the fresh heads cannot or will not be trained."""
        difference = f"{self._path}: has {_classes(other.given)}, the model {other.wanted}"
        if resumes:
            raise InputError(
                f"{difference}, and a run cannot go on with others because its optimiser would not "
                "fit; start a new one, without --resume and with this file as MODEL.WEIGHTS."
            )
        if not self._fresh_classes:
            raise InputError(
                f"{difference}, so that its heads would start at random ({some(other.names)}); set "
                "the config's NUM_CLASSES to the file's, or train it first."
            )


def _what_to_do(untrained: list[str]) -> str:
    if all(".policy." in name for name in untrained):
        return "fine-tune these weights under the policy first"
    return "train the whole model first"


def _classes(count: int) -> str:
    return f"{count} class" if count == 1 else f"{count} classes"
