"""TokenNet: the base of every network over a trunk; finding it in a model; recording its passes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.tokens import PassRecord, TokenGrid
from svit_det.vit.trunk import TokenTrunk


class TokenNet(nn.Module):
    """A network over a trunk. From images it computes outputs by name and the record of the pass.

    Outputs are maps, or a classifier's logits.
    """

    def __init__(self, *, trunk: TokenTrunk) -> None:
        super().__init__()
        self.trunk = trunk

    @property
    @abstractmethod
    def strides(self) -> dict[str, int]:
        """Pixels per cell of each output that is a map."""

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each output map."""
        return dict.fromkeys(self.strides, self.trunk.embed_dim)

    @property
    @abstractmethod
    def size_divisibility(self) -> int:
        """Image sides must be multiples of this many pixels."""

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], PassRecord]:
        """(B, 3, height, width) -> outputs by name, and the record of the pass."""

    def grid_of(self, height: int, width: int) -> TokenGrid:
        """The tokens of an image of this many pixels, without padding."""
        return TokenGrid((height, width), self.trunk.patch_size)


def find_token_net(model: nn.Module) -> TokenNet:
    """The TokenNet inside `model`. Raises InputError where there is none."""
    for module in model.modules():
        if isinstance(module, TokenNet):
            return module
    raise InputError(
        f"{type(model).__name__} holds no network of svit_det, such as PlainViT or ViTAdapter."
    )


class _Recorder:
    """A forward hook that keeps the record of each pass."""

    def __init__(self) -> None:
        self.records: list[PassRecord] = []

    def __call__(
        self, module: nn.Module, inputs: object, output: tuple[dict[str, Tensor], PassRecord]
    ) -> None:
        self.records.append(output[1])


@contextmanager
def record_passes(model: nn.Module) -> Iterator[list[PassRecord]]:
    """Collect the record of each forward pass inside the with-block.

    A hook carries the records across pyramids and meta-architectures, which have no slot for a
    record. Nothing is kept on a module, so that models stay copyable.
    """
    recorder = _Recorder()
    handle = find_token_net(model).register_forward_hook(recorder)
    try:
        yield recorder.records
    finally:
        handle.remove()


def is_recorded(net: TokenNet) -> bool:
    """Whether a `record_passes` block is recording `net`."""
    return any(isinstance(hook, _Recorder) for hook in net._forward_hooks.values())
