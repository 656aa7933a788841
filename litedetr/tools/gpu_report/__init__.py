"""Measures the GPU that is here in steps, each in a process of its own, and makes a page of it: scripts/gpu_report.py.

    command_line.py    arguments, signals, exit code
    plan.py            the steps, most valuable first
    report.py          its settings; measures the steps within a budget
    child_process.py   one process with a time limit; step_process.py: what it does
    rows_file.py       the file that every figure goes to at once
    page.py summary.py markdown_tables.py report_plots.py    what is made of it at the end
    steps/             a module for each step

To add a step: write a module in steps/ whose `measure_step(context, tell)` tells each row as soon as it is known, and
add its `Step` to STEPS in plan.py. The page shows its rows as tables. A row is a dict of figures; its `kind` names the
table, and the names of its figures have their units. If `context.rehearse` is set, the step takes seconds on a CPU.
LEGEND in markdown_tables.py says what the columns mean. A sentence in summary.py and a plot in report_plots.py are
optional.

Nothing here is imported before the step that needs it: the kernels' steps need torch, Triton, NumPy, pydantic and
pytest only.
"""
