"""FLOPs and parameters of the paper's systems beside the paper's own figures, or of one model; docs/flops.md explains.

python scripts/flops.py                                       # the paper's tables
python scripts/flops.py image_size=[800,1333] tables=[4]
python scripts/flops.py model=lite_dino encoder=h2l2 a=2 b=3  # this model, part by part
"""

from omegaconf import DictConfig

from litedetr.cli.compose import as_mapping, compose, given_overrides
from litedetr.cli.script import script
from litedetr.engine.run_config import beside_model, detector_config
from litedetr.settings import require
from litedetr.tools.flops.count import FlopsConfig
from litedetr.tools.flops.count_systems import count_model, count_paper


@script("flops")
def main(cfg: DictConfig) -> None:
    settings = as_mapping(cfg)
    (config,) = beside_model(settings, FlopsConfig)
    own = FlopsConfig.__annotations__
    of_model = [text for text in given_overrides() if text.split("=")[0].lstrip("+~") not in own]
    if config.rows == "this" or (config.rows == "auto" and of_model):
        lines = count_model(detector_config(settings), of_model, config)
    else:
        require(not of_model, "rows", "auto or this with settings of a model", f"paper with {' '.join(of_model)}")
        lines = count_paper(config, compose)
    for line in lines:
        print(line)


if __name__ == "__main__":
    main()
