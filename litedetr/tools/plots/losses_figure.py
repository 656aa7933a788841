"""The parts of the loss: a row for each term, a column for each branch, a line for each layer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from matplotlib.figure import Figure

from litedetr.tools.plots.run_curves import RunCurves, from_zero
from litedetr.tools.plots.style import new_figure, set_labels

TERMS = {"class": "classes (focal)", "l1": "boxes (L1)", "giou": "boxes (1 - GIoU)"}
BRANCHES = {"": "decoder", "proposals": "proposals", "denoising": "denoising", "one_to_many": "one-to-many"}
PANEL, LEGEND = (3.9, 2.7), 0.8  # inches
LAST = 10**6  # the decoder's last layer and the proposals have no number


@dataclass(frozen=True)
class LossPart:
    """A number of a training step. branch: a key of BRANCHES. layer: LAST if the name has none."""

    name: str
    term: str
    branch: str
    layer: int

    @classmethod
    def parse(cls, name: str) -> LossPart | None:
        """None if `name`, as litedetr.losses.Losses has it, is no part of the loss."""
        found = re.fullmatch(rf"({'|'.join(TERMS)})(?:_(proposals|denoising|one_to_many))?(?:_(\d+))?", name)
        if found is None:
            return None
        term, branch, layer = found.groups()
        return cls(name, term, branch or "", LAST if layer is None else int(layer))


def losses_figure(curves: RunCurves) -> Figure:
    """Unweighted parts, per object; the branches are those that some run has."""
    parts = loss_parts(name for history in curves.histories for name in history.numbers())
    branches = [branch for branch in BRANCHES if any(part.branch == branch for part in parts)] or [""]
    figure = new_figure(max(len(branches), 2) * PANEL[0], len(TERMS) * PANEL[1] + LEGEND)
    panels = figure.subplots(len(TERMS), len(branches), squeeze=False)
    deepest = 1
    for row, (term, title) in zip(panels, TERMS.items(), strict=True):
        for axes, branch in zip(row, branches, strict=True):
            layers = [part for part in parts if (part.term, part.branch) == (term, branch)]
            for depth, part in enumerate(layers):
                curves.draw(axes, "train", part.name, depth)
            set_labels(axes, f"{BRANCHES[branch]}: {title}", x=curves.over)
            from_zero(axes)
            deepest = max(deepest, len(layers))
    curves.legend(figure, deepest)
    return figure


def loss_parts(names: Iterable[str]) -> list[LossPart]:
    """Those that are parts of the loss, each once, the last layers first."""
    found = {name: LossPart.parse(name) for name in names}
    return sorted((part for part in found.values() if part is not None), key=lambda part: -part.layer)
