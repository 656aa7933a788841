"""The calls of a detector's attentions during a forward pass, recorded by hooks."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from litedetr.models.attention import MultiScaleAttention, SampledAttention
from litedetr.structures import FeaturePyramid


@dataclass(frozen=True)
class RecordedCall:
    """One call of `attention`; see MultiScaleAttention.forward for its arguments."""

    name: str  # of the attention in the detector; begins with `encoder.` or `decoder.`
    attention: MultiScaleAttention
    query: Tensor
    reference: Tensor
    memory: FeaturePyramid
    query_shapes: tuple[tuple[int, int], ...] | None = None

    @property
    def query_levels(self) -> tuple[int, int] | None:
        """The levels [first, last) whose cells the queries are; None if the queries are boxes.

        Several levels of one cell look alike; then the coarsest that fit are meant, as high-level tokens are.
        """
        if self.query_shapes is None:
            return None
        number, shapes = len(self.query_shapes), self.memory.shapes
        fitting = [i for i in range(len(shapes)) if shapes[i : i + number] == self.query_shapes]
        return fitting[-1], fitting[-1] + number

    @torch.no_grad()
    def sampled(self, queries: Sequence[int]) -> SampledAttention:
        """Where the queries of these indices sample, of all images of the batch; without gradients."""
        index = list(queries)
        return self.attention.sampled(self.query[:, index], self.reference[:, index], self.memory)


@contextmanager
def record_attentions(model: nn.Module) -> Iterator[list[RecordedCall]]:
    """Within the context, every call of an attention of `model` to its memory is appended, in the order of calls."""
    calls: list[RecordedCall] = []

    def record(name: str, attention: MultiScaleAttention, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        arguments = inspect.signature(attention.forward).bind(*args, **kwargs).arguments
        calls.append(RecordedCall(name, attention, **arguments))

    hooks = [
        module.register_forward_pre_hook(partial(record, name), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, MultiScaleAttention)
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
