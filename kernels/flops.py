"""Operation counts of the attentions for torch.utils.flop_counter.FlopCounterMode: two FLOPs a multiply-add."""

from __future__ import annotations

import math

from torch.utils.flop_counter import register_flop_formula

CORNERS = 4


def attention_flops(query, key, value, logits, reference, offsets, *_, **__) -> int:
    """From shapes: the bilinear samples of values (and own keys), the scores q . k, the weighted sum of the samples."""
    tables = 1 if key is None else 2
    scores = 1 if logits is None else 0
    return 2 * math.prod(offsets[:-1]) * value[-1] * (CORNERS * tables + scores + 1)


def attention_backward_flops(grad_out, out, log_sum_exp, reference_grad, *inputs, **kwargs) -> int:
    """Twice the forward pass, as for a matrix product, and the forward pass recomputed."""
    return 3 * attention_flops(*inputs)


def register_formulas(forward, backward) -> None:
    """Tell the counter about two operator packets."""
    register_flop_formula(forward)(attention_flops)
    register_flop_formula(backward)(attention_backward_flops)
