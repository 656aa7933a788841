"""Training and evaluation. `build_trainer` assembles a run, `trainer` has the loop, `train_step` an optimiser step."""
