"""Tune the kernels for the GPU that is here, for the attentions of the configured model.

python scripts/autotune.py
python scripts/autotune.py model=dino_4scale batch_size=4 dtypes=[bfloat16] budget_s=120
python scripts/autotune.py target=sm_90       # no GPU needed: registers, spills, instructions of the candidates
"""

from omegaconf import DictConfig
from tqdm import tqdm

from litedetr.cli.compose import as_mapping
from litedetr.cli.script import script
from litedetr.engine.run_config import beside_model, detector_config
from litedetr.tools.autotune import AutotuneConfig, Gpu, compile_all, jobs_of, measure_all


@script("autotune")
def main(cfg: DictConfig) -> None:
    settings = as_mapping(cfg)
    (config,) = beside_model(settings, AutotuneConfig)
    jobs = jobs_of(config, detector_config(settings))
    if config.target is None:
        lines = measure_all(jobs, config, Gpu.current(config.repetitions_ms))
    else:
        lines = compile_all(jobs, config.target)
    for line in lines:
        tqdm.write(line)  # above a progress bar


if __name__ == "__main__":
    main()
