"""The steps of a report: a module each, whose `measure_step(context, tell)` tells its rows."""
