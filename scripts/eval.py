"""Evaluate a checkpoint on a validation set: COCO's twelve numbers, AP by class, detections.json.

python scripts/eval.py checkpoint=runs/foo/best.pt
python scripts/eval.py checkpoint=runs/foo/best.pt data=coco data.root=<coco>
"""

from omegaconf import DictConfig

from litedetr.cli.compose import as_mapping, overridden
from litedetr.cli.script import script
from litedetr.engine.coco_metrics import class_table, summary_table
from litedetr.engine.distributed import use_all_cores
from litedetr.engine.evaluate_checkpoint import EvalConfig, evaluate_checkpoint
from litedetr.engine.evaluation_loop import write_detections
from litedetr.faults.files import require_writable
from litedetr.paths import user_path
from litedetr.settings import from_mapping


@script("eval")
def main(cfg: DictConfig) -> None:
    use_all_cores()
    config = from_mapping(EvalConfig, settings(cfg))
    config.gpu.apply()
    output = user_path(config.output or config.path.parent)
    require_writable("output", output)
    evaluation, what = evaluate_checkpoint(config)
    if evaluation is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_detections(output / "detections.json", evaluation.detections)
        print(f"{what}\n")
        print(summary_table(evaluation.scores), class_table(evaluation.scores), sep="\n\n")
        print(f"\ndetections: {output / 'detections.json'}")


def settings(cfg: DictConfig) -> dict:
    """data=... brings transforms of its own, which count only if they were asked for: a detector is evaluated at
    the sizes it was trained for.
    """
    plain = as_mapping(cfg)
    data = plain.get("data") or {}
    transforms = data.pop("transforms", None)
    asked = overridden("transforms=", "data.transforms")
    return plain | {"data": data or None, "transforms": transforms if asked else None}


if __name__ == "__main__":
    main()
