"""The costs of one model, or of every system of the paper's tables, as text, as CSV and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from tqdm import tqdm

from litedetr.engine.run_config import detector_config
from litedetr.models import DetectorConfig
from litedetr.paths import user_path
from litedetr.settings import ConfigError, from_mapping, require
from litedetr.tools.composition import Compose
from litedetr.tools.flops.ap_plot import draw
from litedetr.tools.flops.count import Cost, FlopsConfig, count, token_shares
from litedetr.tools.flops.tables import (
    CountedRow,
    CountedTable,
    Figures,
    Paper,
    PaperRow,
    PaperTable,
    cost_text,
    shares_text,
    table_text,
    write_costs,
)

OTHER_SYSTEM = "not of this code"


def count_model(model: DetectorConfig, overrides: Sequence[str], config: FlopsConfig) -> Iterator[str]:
    """What to print of one model, part by part. Writes flops.csv. overrides: the settings that made it."""
    cost = count(model, config.image_size, config.num_classes)
    yield f"{' '.join(overrides) or 'the default model'} at {_size(config)}\n"
    yield f"{cost_text(cost)}\n\ntokens, percent"
    yield shares_text(token_shares(model.neck.num_levels, config.image_size))
    row = CountedRow(PaperRow(" ".join(overrides), Figures(), tuple(overrides)), cost)
    yield _write([CountedTable(PaperTable(None, "this model", (row.paper,)), (row,))], config)


def count_paper(config: FlopsConfig, compose: Compose) -> Iterator[str]:
    """What to print of the paper's tables. Writes flops.csv and flops.png."""
    paper = from_mapping(Paper, compose("paper", ()))
    chosen = choose(paper, config.tables)
    with tqdm(total=sum(len(table.rows) for table in chosen), unit=" rows", leave=False, disable=None) as bar:
        tables = []
        for table in chosen:
            tables.append(CountedTable(table, tuple(counted(row, config, compose) for row in table.rows)))
            bar.update(len(table.rows))
    yield f"GFLOPs at {_size(config)}, {config.num_classes} classes; rest: neck, query selection and decoder.\n"
    yield f"Table 2: tokens, percent\n{shares_text(token_shares(4, config.image_size), paper.token_shares)}"
    yield from (f"\n{table_text(table)}" for table in tables)
    yield _write(tables, config)
    yield str(draw(tables, config.image_size, user_path(config.output) / "flops.png"))


def choose(paper: Paper, numbers: tuple[int, ...] | None) -> list[PaperTable]:
    known = [table.number for table in paper.tables if table.number is not None]
    unknown = sorted(set(numbers or ()) - set(known))
    require(not unknown, "tables", f"some of {known}", unknown)
    return [table for table in paper.tables if numbers is None or table.number in numbers]


def counted(row: PaperRow, config: FlopsConfig, compose: Compose) -> CountedRow:
    if row.overrides is None:
        return CountedRow(row, None, OTHER_SYSTEM)
    cost = _cost_of(row.overrides, config.image_size, config.num_classes, compose)
    return CountedRow(row, cost) if isinstance(cost, Cost) else CountedRow(row, None, f"missing: {cost}")


@cache
def _cost_of(overrides: tuple[str, ...], image_size: tuple[int, int], num_classes: int, compose: Compose) -> Cost | str:
    """Or why there is none: no such configuration yet, or a package that is not installed."""
    try:
        return count(detector_config(compose("flops", overrides)), image_size, num_classes)
    except ConfigError as error:
        return str(error).strip().splitlines()[0]


def _write(tables: Sequence[CountedTable], config: FlopsConfig) -> str:
    return f"\n{write_costs(user_path(config.output) / 'flops.csv', tables, config.image_size)}"


def _size(config: FlopsConfig) -> str:
    return "x".join(map(str, config.image_size))
