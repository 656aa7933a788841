"""What a detector costs, beside what the paper says it does. docs/flops.md has the conventions and the figures."""

from litedetr.tools.flops.count import Cost, Part, count, count_parts, token_shares
from litedetr.tools.flops.flops_config import FlopsConfig
from litedetr.tools.flops.paper_tables import CountedRow, CountedTable, Figures, Paper, PaperRow, PaperTable

__all__ = [
    "Cost",
    "CountedRow",
    "CountedTable",
    "Figures",
    "FlopsConfig",
    "Paper",
    "PaperRow",
    "PaperTable",
    "Part",
    "count",
    "count_parts",
    "token_shares",
]
