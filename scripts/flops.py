"""FLOPs and parameters of the paper's systems beside the paper's own figures, or of one model; docs/flops.md explains.

python scripts/flops.py                                       # the paper's tables
python scripts/flops.py image_size=[800,1333] tables=[4]
python scripts/flops.py model=lite_dino encoder=h2l2 a=2 b=3  # this model, part by part
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from litedetr.cli.compose import PAPER, as_mapping
from litedetr.cli.script import script
from litedetr.engine.run_config import beside_model, detector_config, require_image_size
from litedetr.paths import user_path
from litedetr.settings import ConfigError, require
from litedetr.tools.flops import (
    Cost,
    Figures,
    Paper,
    PaperRow,
    PaperTable,
    Row,
    Table,
    cost_text,
    count,
    draw,
    shares_text,
    table_text,
    token_shares,
    write_csv,
)

OTHER_SYSTEM = "not of this code"


@dataclass(frozen=True)
class FlopsConfig:
    """The settings of conf/flops.yaml beside the model's."""

    rows: Literal["auto", "paper", "this"]
    tables: tuple[int, ...] | None
    image_size: tuple[int, int]
    num_classes: int
    output: str

    def __post_init__(self) -> None:
        require_image_size(self.image_size)
        require(self.tables != (), "tables", "null or at least one number", self.tables)
        require(self.num_classes >= 1, "num_classes", "at least 1", self.num_classes)


@script("flops")
def main(cfg: DictConfig) -> None:
    settings = as_mapping(cfg)
    (config,) = beside_model(settings, FlopsConfig)
    overrides = model_overrides()
    if config.rows == "this" or (config.rows == "auto" and overrides):
        count_this(settings, overrides, config)
    else:
        given = " ".join(overrides) or None
        require(given is None, "rows", "auto or this with settings of a model", f"paper with {given}")
        count_paper(config)


def model_overrides() -> tuple[str, ...]:
    """What the command line says of the model."""
    own = FlopsConfig.__annotations__
    return tuple(text for text in HydraConfig.get().overrides.task if text.split("=")[0].lstrip("+~") not in own)


def count_this(settings: dict, overrides: tuple[str, ...], config: FlopsConfig) -> None:
    model = detector_config(settings)
    cost = count(model, config.image_size, config.num_classes)
    height, width = config.image_size
    print(f"{' '.join(overrides) or 'the default model'} at {height}x{width}\n")
    print(cost_text(cost), "tokens, percent", sep="\n\n")
    print(shares_text(token_shares(model.neck.num_levels, config.image_size)))
    row = Row(PaperRow(" ".join(overrides), Figures(), overrides), cost)
    write([Table(PaperTable(None, "this model", (row.paper,)), (row,))], config)


def count_paper(config: FlopsConfig) -> None:
    paper = Paper.from_settings(OmegaConf.to_container(OmegaConf.load(PAPER)))
    chosen = choose(paper, config.tables)
    with tqdm(total=sum(len(table.rows) for table in chosen), unit=" rows", leave=False, disable=None) as bar:

        def fill(row: PaperRow) -> Row:
            bar.update()
            return counted(row, config)

        tables = [Table(table, tuple(fill(row) for row in table.rows)) for table in chosen]
    height, width = config.image_size
    print(f"GFLOPs at {height}x{width}, {config.num_classes} classes; rest: neck, query selection and decoder.\n")
    print("Table 2: tokens, percent", shares_text(token_shares(4, config.image_size), paper.token_shares), sep="\n")
    for table in tables:
        print(f"\n{table_text(table)}")
    write(tables, config)
    picture = user_path(config.output) / "flops.png"
    draw(tables, config.image_size, picture)
    print(picture)


def choose(paper: Paper, numbers: tuple[int, ...] | None) -> list[PaperTable]:
    known = [table.number for table in paper.tables if table.number is not None]
    unknown = sorted(set(numbers or ()) - set(known))
    require(not unknown, "tables", f"some of {known}", unknown)
    return [table for table in paper.tables if numbers is None or table.number in numbers]


def counted(row: PaperRow, config: FlopsConfig) -> Row:
    if row.overrides is None:
        return Row(row, None, OTHER_SYSTEM)
    cost = cost_of(row.overrides, config.image_size, config.num_classes)
    return Row(row, cost) if isinstance(cost, Cost) else Row(row, None, f"missing: {cost}")


@cache
def cost_of(overrides: tuple[str, ...], image_size: tuple[int, int], num_classes: int) -> Cost | str:
    """Or why there is none: no such configuration yet, or a package that is not installed."""
    try:
        settings = as_mapping(hydra.compose("flops", list(overrides)))
        return count(detector_config(settings), image_size, num_classes)
    except MissingConfigException as error:
        return f"there is no conf/{error.missing_cfg_file}.yaml"
    except (ConfigCompositionException, ConfigError) as error:
        return str(error).strip().splitlines()[0]


def write(tables: list[Table], config: FlopsConfig) -> None:
    path = user_path(config.output) / "flops.csv"
    write_csv(path, tables, config.image_size)
    print(f"\n{path}")


if __name__ == "__main__":
    main()
