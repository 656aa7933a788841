"""The process of one step, which scripts/gpu_report.py starts with name, folder, report, device, seconds, rehearse."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from litedetr.threads import limit_spinning  # noqa: E402
from litedetr.tools.gpu_report.child import end_with_parent  # noqa: E402
from litedetr.tools.gpu_report.plan import Context, Row, step_named  # noqa: E402
from litedetr.tools.gpu_report.rows import Rows  # noqa: E402


def main(name: str, folder: str, report: str, device: str, seconds: str, rehearse: str) -> None:
    end_with_parent()
    limit_spinning()
    rows = Rows(Path(folder), report, name)

    def tell(row: Row) -> None:
        rows.append(row)
        print(row)

    step_named(name).run(Context(device, rehearse == "True", float(seconds), Path(folder), compose), tell)


def compose(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of conf/<name>.yaml with `overrides`."""
    import hydra  # the kernels' steps do without
    from omegaconf import OmegaConf

    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base=None):
        return OmegaConf.to_container(hydra.compose(name, list(overrides)), resolve=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
