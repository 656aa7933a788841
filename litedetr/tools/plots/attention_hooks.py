"""Record the arguments of a detector's attentions during a forward pass, by hooks."""

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
    """One call of `attention`, whose name in the detector begins with `encoder.` or `decoder.`; see
    MultiScaleAttention for its arguments.
    """

    name: str
    attention: MultiScaleAttention
    query: Tensor
    reference: Tensor
    memory: FeaturePyramid
    query_shapes: tuple[tuple[int, int], ...] | None = None

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
