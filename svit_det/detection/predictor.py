"""Predictor: runs a trained detector on pictures from any source."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from svit_det.config.reading import merge_options
from svit_det.detection.checkpoint import TokenCheckpointer
from svit_det.detection.config_file import check_config
from svit_det.detection.data import build_augmentations
from svit_det.detection.prediction import Prediction
from svit_det.detection.token_losses import TokenLosses
from svit_det.detection.trained import category_ids_of, class_names_of, read_trained
from svit_det.errors import InputError, says_no_memory
from svit_det.images import Picture, pictures_of
from svit_det.settings import shown
from svit_det.vit import find_token_net, record_passes
from svit_det.weights.files import read_description
from svit_det.weights.model_size import in_proportion


@dataclass(frozen=True)
class Unread:
    """A picture, film or camera that could not be used."""

    name: str
    reason: str
    """A sentence."""


class Predictor:
    """A trained detector: `Predictor("model_final.pth")("photos")` -> a list of predictions.

    weights: a file of weights that carries its config, as the files of train_net.py do.
    cfg: a config, or the path of a yaml, for a file without a config. Its MODEL.WEIGHTS are used
        where no `weights` are given.
    options: KEY, VALUE, ... overrides of the config.
    budget: mean share of tokens over the deciding blocks; None: as trained.
    batch_size: number of pictures that run together; pictures of different sizes run one after the
        other.
    allow_untrained: run even if gates or heads are not in the file and hold random numbers.
    follow: let the policy adapt to earlier pictures (`TokenPolicy.follow`), for a stream of
        pictures of one kind; detections then depend on the order of pictures.

    Raises InputError, here and when called, in one sentence that says what to do.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        cfg: CfgNode | str | Path | None = None,
        options: Sequence[str] = (),
        budget: float | None = None,
        batch_size: int = 1,
        allow_untrained: bool = False,
        follow: bool = False,
    ) -> None:
        if type(batch_size) is not int or batch_size < 1:
            raise InputError(f"batch_size: {shown(batch_size)} is no number of pictures from 1 up.")
        if isinstance(options, str) or not isinstance(options, Sequence):
            raise InputError("options: not a list of KEY, VALUE, ... for the config.")
        _check_path(weights, "weights", "a file of weights")
        if not isinstance(cfg, CfgNode):
            _check_path(cfg, "cfg", "a config, or the path of a yaml")
        self.cfg, self.class_names, self.category_ids = _trained(weights, cfg, options)
        if not self.cfg.MODEL.WEIGHTS:
            raise InputError("MODEL.WEIGHTS is empty; name the trained weights.")
        self.batch_size, self.follow = batch_size, follow
        with in_proportion(self.cfg.MODEL.WEIGHTS):
            self.model = build_model(self.cfg).eval()
        if not isinstance(self.model, TokenLosses):
            raise InputError(
                f"MODEL.META_ARCHITECTURE: {type(self.model).__name__} leaves no token usage; "
                "choose TokenRCNN or TokenRetinaNet."
            )
        TokenCheckpointer(self.model, refuse_untrained=not allow_untrained).load(
            self.cfg.MODEL.WEIGHTS
        )
        self._augmentation = build_augmentations(self.cfg, False)[0]
        if budget is not None:
            try:
                find_token_net(self.model).trunk.policy.set_keep_ratio(budget)
            except InputError as error:
                raise InputError(error.message, setting="budget") from error

    def __call__(
        self, source: Any, *, order: str | None = None, unread: list[Unread] | None = None
    ) -> list[Prediction]:
        """Run every picture of `source`; see `pictures_of` for `source` and `order`.

        unread: a list that collects unusable pictures, films that cannot be read and, in a list
        of sources, missing files, while the other pictures run. None: the first of them raises
        InputError.
        """
        return list(self.stream(source, order=order, unread=unread))

    def stream(
        self, source: Any, *, order: str | None = None, unread: list[Unread] | None = None
    ) -> Iterator[Prediction]:
        """Yield the predictions one after the other: for films, cameras and very many pictures."""

        def note(name: str, error: InputError) -> None:
            unread.append(Unread(name, str(error)))

        read: list[tuple[str, np.ndarray]] = []
        for picture in pictures_of(source, order=order, failed=None if unread is None else note):
            read += _read(picture, unread)
            if len(read) == self.batch_size:
                yield from self._run_or_note(read, unread)
                read = []
        yield from self._run_or_note(read, unread)

    def run(self, image: np.ndarray) -> Prediction:
        """Run one picture, (height, width, 3) uint8 RGB. Raises InputError for anything else."""
        is_array = isinstance(image, np.ndarray) and image.dtype == np.uint8
        if not is_array or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise InputError(
                "run takes one array (height, width, 3) of uint8; call the predictor itself for "
                "pictures of any other kind."
            )
        return self._run([("", image)])[0]

    def model_input(self, image: np.ndarray) -> dict:
        """(height, width, 3) uint8 RGB -> detectron2's input for one image."""
        height, width = image.shape[:2]
        if self.cfg.INPUT.FORMAT == "BGR":
            image = image[:, :, ::-1]
        resized = self._augmentation.get_transform(image).apply_image(image)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        return {"image": tensor, "height": height, "width": width}

    def _run_or_note(
        self, read: list[tuple[str, np.ndarray]], unread: list[Unread] | None
    ) -> list[Prediction]:
        """Run one batch. If it is too large for the memory, run each picture alone.

        A picture that is too large even alone goes to `unread`, or raises InputError.
        """
        if not read:
            return []
        try:
            return self._run(read)
        except (MemoryError, RuntimeError) as error:
            if not says_no_memory(error):
                raise
            if len(read) > 1:
                return [each for one in read for each in self._run_or_note([one], unread)]
            name, image = read[0]
            problem = InputError(
                f"{name}: {image.shape[1]} x {image.shape[0]} pixels are too many for the memory; "
                "make it smaller, or lower INPUT.MAX_SIZE_TEST."
            )
            if unread is None:
                raise problem from error
            unread.append(Unread(name, str(problem)))
            return []

    @torch.no_grad()
    def _run(self, read: list[tuple[str, np.ndarray]]) -> list[Prediction]:
        net, given = find_token_net(self.model), [self.model_input(image) for _, image in read]
        start = time.perf_counter()
        with record_passes(self.model) as records:
            outputs = self.model(given)
        found = [output["instances"].to("cpu") for output in outputs]  # waits for the device
        seconds = (time.perf_counter() - start) / len(read)
        if self.follow:
            for record in records:
                net.trunk.policy.follow(record)
        predictions = []
        for (name, image), one, output, instances in zip(read, given, outputs, found, strict=True):
            attention = output.get("token_attention")
            predictions.append(
                Prediction(
                    image=image,
                    instances=instances,
                    usage=output["token_usage"].cpu().numpy(),
                    grid=net.grid_of(*one["image"].shape[-2:]),
                    attention=None if attention is None else attention.cpu().numpy(),
                    name=name,
                    seconds=seconds,
                    trunk_macs=output["trunk_macs"],
                    category_ids=None if self.category_ids is None else tuple(self.category_ids),
                )
            )
        return predictions


class TokenPredictor(Predictor):
    """Runs a config's model on one picture file at a time: `TokenPredictor(cfg)(path)`."""

    def __init__(self, cfg: CfgNode, *, allow_untrained: bool = False) -> None:
        super().__init__(cfg=cfg, allow_untrained=allow_untrained)

    def __call__(self, path: str | Path) -> Prediction:  # type: ignore[override]
        """Read and run one image file. Raises InputError for a file that cannot be read."""
        return next(self.stream(path))


def _trained(
    weights: str | Path | None, cfg: CfgNode | str | Path | None, options: Sequence[str]
) -> tuple[CfgNode, list[str] | None, list[int] | None]:
    """The config to build, with MODEL.WEIGHTS set, and names and ids of its classes."""
    if isinstance(cfg, CfgNode):
        cfg = cfg.clone()
        cfg.defrost()
        merge_options(cfg, options)
        if options:
            check_config(cfg)
        if weights is not None:
            cfg.MODEL.WEIGHTS = str(weights)
        path = cfg.MODEL.WEIGHTS
        said = read_description(path) if os.path.isfile(path) else {}
        return cfg, class_names_of(cfg, said), category_ids_of(cfg, said)
    yaml = None if cfg is None else str(cfg)
    trained = read_trained(weights, options, config_file=yaml)
    return trained.cfg, trained.class_names, trained.category_ids


def _check_path(given: object, setting: str, what: str) -> None:
    if given is not None and not isinstance(given, (str, os.PathLike)):
        raise InputError(f"a {type(given).__name__} is not {what}.", setting=setting)


def _read(picture: Picture, unread: list[Unread] | None) -> Iterable[tuple[str, np.ndarray]]:
    try:
        return [(picture.name, picture.read())]
    except InputError as error:
        if unread is None:
            raise
        unread.append(Unread(picture.name, str(error)))
        return []
