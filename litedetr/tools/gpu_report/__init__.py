"""scripts/gpu_report.py: measures the GPU that is here in steps, each in a process of its own, and makes a page of it.

    config.py    settings of scripts/gpu_report.py
    plan.py      the steps, most valuable first
    report.py    runs them within a budget
    child.py     one process with a time limit
    rows.py      the file that every figure goes to at once
    page.py summary.py tables.py legend.py plots.py    what is made of it at the end

    machine.py suite.py attention.py memory_access.py host.py detectors.py step.py training.py tools.py autotune.py
                 a step each: a function `run` that tells its rows

To add a step: write a module here whose `run(context, tell)` tells each row as soon as it is known, and add its `Step`
to STEPS in plan.py. The page shows its rows as tables. A row is a dict of figures; its `kind` names the table, and the
names of its figures have their units. Where `context.rehearse` is set, the step takes seconds on a CPU. legend.py says
what the columns mean. A sentence in summary.py and a plot in plots.py are optional.

Nothing here is imported before the step that needs it runs: the kernels' steps need torch, Triton, NumPy and pytest
only.
"""
