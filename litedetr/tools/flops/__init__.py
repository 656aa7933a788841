"""What a detector costs, beside what the paper says it does. docs/flops.md has the conventions and the figures."""

from litedetr.tools.flops.count import Cost, Part, count, count_parts, token_shares
from litedetr.tools.flops.paper import Figures, Paper, PaperRow, PaperTable, Row, Table
from litedetr.tools.flops.plot import draw
from litedetr.tools.flops.report import cost_text, shares_text, table_text, write_csv
