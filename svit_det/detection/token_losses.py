"""TokenLosses: adds the policy's losses to a detectron2 meta-architecture over a token backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor

from svit_det.errors import InputError
from svit_det.policies import TaskLosses
from svit_det.tokens import PassRecord
from svit_det.training.collectives import mean_over_processes
from svit_det.training.distillation import seen_images, teach
from svit_det.training.greedy import (
    RandomState,
    greedy_pass,
    random_states_after,
    restored_after,
)
from svit_det.vit import TokenNet, find_token_net, record_passes
from svit_det.vit.flops import trunk_macs
from svit_det.vit.trunk import refuse_tracing


class TokenLosses:
    """A mixin: name it before the meta-architecture, `TokenRCNN(TokenLosses, GeneralizedRCNN)`.

    In training the loss dict gains the policy's `loss_*`, the policy tracks its statistics, and its
    clock is set from the event storage. At inference each output gains three entries.
    `token_usage`: (L, h, w) bool, block l kept this token of the image, padding cut off.
    `trunk_macs`: multiply-adds of the trunk for the padded image, and of the dense trunk.
    `token_attention`, only if the policy `shows_attention`: (L, h, w), what the class token attends
    to.

    At inference images of different sizes run one after the other, so that an image's detections do
    not depend on the other images of the batch.
    """

    @configurable
    def __init__(self, *, max_steps: int | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.max_steps = max_steps
        self._teachers: tuple[TokenNet, ...] = ()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The meta-architecture's arguments. Raises InputError for a backbone without tokens."""
        arguments = super().from_config(cfg)  # type: ignore[misc]
        try:
            find_token_net(arguments["backbone"])
        except InputError as error:
            raise InputError(
                "MODEL.BACKBONE.NAME builds no token backbone; choose "
                "build_plain_vit_simple_pyramid_backbone or build_vit_adapter_fpn_backbone."
            ) from error
        return {**arguments, "max_steps": cfg.SOLVER.MAX_ITER}

    def set_teacher(self, teacher: TokenNet) -> None:
        """Give the passes of `teacher` to the losses. The model's state does not include it."""
        # torch does not take a module in a tuple for a part of the model.
        self._teachers = (teacher,)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """In training detectron2's loss dict with the policy's `loss_*`; otherwise `inference`."""
        if not self.training:
            return self.inference(batched_inputs)
        net = find_token_net(self)
        policy, storage = net.trunk.policy, get_event_storage()
        policy.set_step(storage.iter, self.max_steps)
        run = super().forward
        drawn = RandomState.now() if policy.needs_greedy_pass else None
        with (
            record_passes(self) as records,
            seen_images(net) as images,
            random_states_after(net) if drawn else nullcontext([]) as states,
        ):
            losses = run(batched_inputs)
        record = records[-1]
        greedy = None
        if drawn is not None:
            # The second pass logs into a storage of its own, which is thrown away.
            with (
                EventStorage(storage.iter),
                record_passes(self) as again,
                restored_after(net, states[-1]),
            ):
                named = greedy_pass(self, policy, lambda: run(batched_inputs), random=drawn)
            greedy = TaskLosses(named, record=again[-1], mean=mean_over_processes)
        task = TaskLosses(
            dict(losses),
            greedy=greedy,
            teacher=self._ask_teacher(images[-1]) if policy.needs_teacher else None,
            mean=mean_over_processes,
        )
        losses.update(policy.losses(record, task))
        for name, value in policy.metrics(record, task).items():
            storage.put_scalar(f"token_policy/{name}", float(value))
        policy.track(record, mean_over_processes)
        _log_usage(record)
        return losses

    def _ask_teacher(self, images: Tensor) -> PassRecord:
        if not self._teachers:
            raise InputError(
                f"{type(find_token_net(self).trunk.policy).__name__} learns from a teacher; give "
                "the model one with set_teacher, or train with train_net.py, which does."
            )
        return teach(self._teachers[0], images)

    def inference(self, batched_inputs: list[dict]) -> list[dict]:
        """The meta-architecture's outputs, each with `token_usage`."""
        outer: Any = super()
        # If the meta-architecture has an `inference`, its `forward` would call this method again.
        run = outer.inference if hasattr(outer, "inference") else outer.forward
        return self.run_by_size(batched_inputs, lambda members: run(pick(batched_inputs, members)))

    def run_by_size(
        self, batched_inputs: list[dict], run: Callable[[list[int]], list]
    ) -> list[Any]:
        """Call `run` on the indices of images of equal padded size; outputs in the inputs' order.

        Padding an image to the size of a larger image would cost time. It would also change the
        result: tokens would attend to the padding, and positions would shift.
        """
        refuse_tracing()  # before detectron2's own code warns of what tracing makes of it
        net, outputs = find_token_net(self), [None] * len(batched_inputs)
        for members in self._equally_padded(batched_inputs):
            with record_passes(self) as records:
                found = run(members)
            spent = trunk_macs(net.trunk, records[-1])
            for place, (index, output) in enumerate(zip(members, found, strict=True)):
                outputs[index] = output
                if isinstance(output, dict):
                    output["trunk_macs"] = (int(spent.total[place]), spent.dense_total)
                    grid = net.grid_of(*batched_inputs[index]["image"].shape[-2:])
                    output["token_usage"] = records[-1].image_keep_maps(place, grid)
                    if net.trunk.policy.shows_attention:
                        output["token_attention"] = records[-1].image_score_maps(place, grid)
        return outputs

    def _equally_padded(self, batched_inputs: list[dict]) -> list[list[int]]:
        """Groups of indices of images that have the same size after padding for the backbone."""
        step = max(self.backbone.size_divisibility, 1)
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, given in enumerate(batched_inputs):
            size = tuple(-(-side // step) for side in given["image"].shape[-2:])
            groups.setdefault(size, []).append(index)
        return list(groups.values())


def pick(values: Sequence[Any], indices: Sequence[int]) -> list[Any]:
    """The values at these indices."""
    return [values[index] for index in indices]


def _log_usage(record: PassRecord) -> None:
    """Log the kept share of each block that may skip tokens, in detectron2's event storage."""
    if all(block.everyone for block in record.blocks):
        return
    storage = get_event_storage()
    for layer, share in enumerate(record.kept_shares().tolist()):
        if not record.blocks[layer].everyone:
            storage.put_scalar(f"token_usage/block_{layer:02d}", share)
