"""What is counted: by hand on small models, against the published counter on the paper's; and the script's tables."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from litedetr.cli.compose import compose
from litedetr.engine.run_config import detector_config
from litedetr.models import DetectorConfig, build_detector
from litedetr.models.attention import MultiScaleAttention
from litedetr.models.detector_config import AttentionConfig
from litedetr.settings import ConfigError, from_mapping
from litedetr.structures import FeaturePyramid
from litedetr.tools.flops.ap_plot import Point, points
from litedetr.tools.flops.count import Cost, FlopsConfig, Part, count, count_parts, token_shares
from litedetr.tools.flops.count_systems import choose, counted
from litedetr.tools.flops.tables import (
    CountedRow,
    CountedTable,
    Figures,
    Paper,
    PaperRow,
    PaperTable,
    table_text,
    write_costs,
)

ROOT = Path(__file__).resolve().parents[2]
SIZE = (850, 1040)
PAPER = from_mapping(Paper, compose("paper"))
PUBLISHED = next(table for table in PAPER.tables if table.number is None)


def model_config(*overrides: str) -> DetectorConfig:
    return detector_config(compose("flops", overrides))


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / "flops.py"), *overrides]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


class Small(nn.Module):
    """5 tokens of 8 channels: 5 x 8 x 4 multiply-adds, then a norm of 5 x 4 elements and 5 x 4 x 2 multiply-adds."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(8, 4)
        self.encoder = nn.Sequential(nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.backbone(x))


class Leaky(Small):
    """Multiplies outside of its parts."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) @ torch.empty(2, 3, device=x.device)


def test_a_model_counted_by_hand():
    with torch.device("meta"):
        parts = count_parts(Small(), torch.empty(5, 8))
    assert parts["backbone"].published * 1e9 == pytest.approx(160)
    assert parts["backbone"].operators * 1e9 == pytest.approx(160)
    assert parts["encoder"].published * 1e9 == pytest.approx(40 + 5 * 20)  # five for each element of a norm
    assert parts["encoder"].operators * 1e9 == pytest.approx(40)
    assert parts["backbone"].parameters * 1e6 == pytest.approx(8 * 4 + 4)
    assert parts["encoder"].parameters * 1e6 == pytest.approx(2 * 4 + 4 * 2 + 2)


def test_nothing_is_counted_outside_of_the_parts():
    with torch.device("meta"), pytest.raises(AssertionError, match="Leaky computes 30.0 multiply-adds outside"):
        count_parts(Leaky(), torch.empty(5, 8))


@pytest.mark.parametrize(
    ("kind", "linear", "published", "operators"),
    [
        ("deformable", 8 * 6, 4, 5),  # logits; sampled values, for us their weighted sum too
        ("key_aware_shared", 8 * 8, 10, 6),  # queries; keys and values sampled, two products; for us one gather
        ("key_aware", 8 * 8 + 2 * 8 * 8, 10, 10),  # and keys, of twice as many tokens as there are queries
    ],
)
@pytest.mark.parametrize("sampling", ["bilinear", "nearest"])
def test_attentions_counted_by_hand(kind, linear, published, operators, sampling):
    """6 queries, 12 tokens of 8 channels, 2 heads, one level, 3 points. A nearest sample costs nothing."""

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = AttentionConfig(num_heads=2, num_points=3, sampling=sampling)
            self.encoder = MultiScaleAttention(kind, 8, 1, config)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            pyramid = FeaturePyramid(tokens, tokens, None, torch.empty(1, 1, 2), None, ((3, 4),))
            return self.encoder(tokens[:, :6], torch.empty(1, 6, 1, 2), pyramid)

    with torch.device("meta"):
        part = count_parts(Attends(), torch.empty(1, 12, 8))["encoder"]
    products = 12 * 8 * 8 + 6 * (8 * 12 + 8 * 8 + linear)  # values; offsets and output
    channels = 6 * 2 * 3 * 4  # queries, heads, points, channels of a head
    if sampling == "nearest":  # less the four corners of each table that is sampled
        published -= 4 * (1 if kind == "deformable" else 2)
        operators -= 4 * (2 if kind == "key_aware" else 1)
    assert part.published * 1e9 == pytest.approx(products + published * channels)
    assert part.operators * 1e9 == pytest.approx(products + operators * channels)


@pytest.mark.parametrize("row", PUBLISHED.rows, ids=lambda row: row.name)
def test_the_published_count_of_each_part(row):
    cost = count(model_config(*row.overrides), SIZE, 91)
    for name in ("total", "backbone", "encoder", "decoder"):
        assert cost[name].published == pytest.approx(getattr(row.paper, name), rel=0.01), name
    assert cost["backbone"].published + cost["encoder"].published + cost.rest.published == pytest.approx(
        cost.total.published
    )


def test_token_shares_are_table_2s():
    shares = token_shares(4, SIZE)
    assert shares == pytest.approx(PAPER.token_shares, abs=0.35)
    assert list(shares) == ["S4", "S3", "S2", "S1"]
    assert sum(shares.values()) == pytest.approx(100)


@pytest.mark.parametrize("model", ["dino_4scale", "lite_dino"])
def test_parameters_are_those_of_the_built_model(model):
    config = model_config(f"model={model}", "neck.channels=64", "encoder.feedforward=96")
    parameters = sum(p.numel() for p in build_detector(config, 7).parameters())
    assert count(config, (64, 96), 7).total.parameters * 1e6 == pytest.approx(parameters)


def test_every_row_of_the_paper_composes():
    """But for systems whose configuration is not there yet."""
    conf = ROOT / "conf"
    can_leave_out = "low_level_update" in (conf / "encoder" / "h3l1.yaml").read_text()
    for overrides in {row.overrides for table in PAPER.tables for row in table.rows if row.overrides}:
        is_there = (conf / "model" / f"{overrides[0].removeprefix('model=')}.yaml").exists()
        if is_there and (can_leave_out or "encoder.low_level_update=false" not in overrides):
            assert model_config(*overrides).decoder.num_layers == 6, overrides


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("model=nothing",), "there is no conf/model/nothing.yaml"),
        (("encoder.nothing=false",), "Could not override 'encoder.nothing'"),
        (("backbone=swin_t", "backbone.name=transformers:swin"), "pip install litedetr[backbones]"),
    ],
)
def test_what_cannot_be_counted_is_shown_as_missing(monkeypatch, tmp_path, overrides, reason):
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    paper = PaperRow("a new system", Figures(total=123), overrides)
    config = FlopsConfig("paper", None, (64, 64), 91, str(tmp_path))
    row = counted(paper, config, compose)
    assert row.cost is None
    table = CountedTable(PaperTable(9, "systems", (paper,)), (row,))
    line = table_text(table).splitlines()[-1]
    assert line.split()[:4] == ["a", "new", "system", "-"]
    assert "123.0" in line
    assert "missing: " in line
    assert reason in line
    write_costs(tmp_path / "rows.csv", [table], SIZE)
    (record,) = csv.DictReader((tmp_path / "rows.csv").open())
    assert (record["paper_total_gflops"], record["total_gflops"]) == ("123", "")
    assert reason in record["note"]


def test_systems_of_other_people_have_the_papers_figures(tmp_path):
    config = FlopsConfig("paper", None, (64, 64), 91, str(tmp_path))
    row = counted(PaperRow("YOLOv5-X", Figures(total=206.0)), config, compose)
    assert (row.cost, row.note) == (None, "not of this code")


def test_the_plot_takes_the_papers_gflops_only_where_ours_are_missing():
    cost = Cost({"backbone": Part(published=3.0), "decoder": Part(published=4.0)})
    figures, ours = Figures(total=206.0), ("model=lite_dino",)
    rows = [
        CountedRow(PaperRow("R50 Lite-DINO H2L2-(2+1)x3", figures, ours, ap=49.9, series="R50 Lite-DINO"), cost),
        CountedRow(PaperRow("YOLOv5-X", figures, ap=50.7, series="YOLOv5-X"), None, "not of this code"),
        CountedRow(PaperRow("neither counted nor known", Figures(), ap=1.0, series="R50 DINO"), None),
        CountedRow(PaperRow("in no series", figures, ours, ap=1.0), cost),
    ]
    table = CountedTable(PaperTable(None, "some", tuple(row.paper for row in rows)), tuple(rows))
    assert points([table]) == [
        Point("R50 Lite-DINO", "H2L2-(2+1)x3", 49.9, 7.0, True),
        Point("YOLOv5-X", "YOLOv5-X", 50.7, 206.0, False),
    ]


def test_the_script_writes_tables_csv_and_plot(tmp_path):
    result = run(tmp_path, "tables=[1]", "image_size=[128,160]", "output=out")
    assert result.returncode == 0, result.stderr
    assert "Table 1" in result.stdout
    assert "Table 4" not in result.stdout
    records = list(csv.DictReader((tmp_path / "out" / "flops.csv").open()))
    assert [record["name"] for record in records] == ["DINO-4scale", "DINO-3scale"]
    assert [float(record["paper_total_gflops"]) for record in records] == [235, 122]
    totals = [float(record["total_gflops"]) for record in records]
    assert totals[0] > totals[1] > 0
    assert all(f"{total:.1f}" in result.stdout for total in totals)
    assert (tmp_path / "out" / "flops.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_script_counts_the_model_that_is_named(tmp_path):
    result = run(tmp_path, "model=lite_dino", "encoder=h2l2", "a=2", "b=3", "image_size=[64,96]")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("model=lite_dino encoder=h2l2 a=2 b=3 at 64x96\n")
    (record,) = csv.DictReader((tmp_path / "runs" / "flops" / "flops.csv").open())
    cost = count(model_config("encoder=h2l2", "a=2", "b=3"), (64, 96), 91)
    assert float(record["total_gflops"]) == pytest.approx(cost.total.published, abs=1e-3)
    assert f"{cost['encoder'].published:10.2f}" in result.stdout


def test_a_mistake_is_one_clear_message(tmp_path):
    result = run(tmp_path, "rows=paper", "a=3")
    assert result.returncode == 2
    assert "error: rows: expected auto or this with settings of a model, got 'paper with a=3'" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match=r"tables: expected some of \[1, 3, 4, 5, 6\], got \[2\]"):
        choose(PAPER, (1, 2))
    with pytest.raises(ConfigError, match=r"image_size\[0\]: expected at least 1, got 0"):
        FlopsConfig("paper", None, (0, 10), 91, "out")
