"""The process of one step: python -m litedetr.tools.gpu_report.step_process, then a StepCall as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import litedetr.cli  # noqa: F401  before torch, whose threads it keeps from spinning
from litedetr.tools.gpu_report.child_process import end_with_parent
from litedetr.tools.gpu_report.plan import Context, Row, StepCall, step_named
from litedetr.tools.gpu_report.rows_file import Rows


def main(call: StepCall) -> None:
    end_with_parent()
    rows = Rows(Path(call.folder), call.report, call.name)

    def tell(row: Row) -> None:
        rows.append(row)
        print(row)

    step_named(call.name).measure(Context(call.device, call.rehearse, call.seconds, rows.folder, _compose), tell)


def _compose(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    from litedetr.cli.compose import compose  # not above: the kernels' steps do without Hydra

    return compose(name, overrides)


if __name__ == "__main__":
    main(StepCall(**json.loads(sys.argv[1])))
