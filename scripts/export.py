"""Make a file of a checkpoint that runs without this project, and check it against PyTorch.

python scripts/export.py checkpoint=runs/foo format=onnx
python scripts/export.py checkpoint=runs/foo/best.pt format=torch_export backend=reference
python scripts/export.py checkpoint=runs/foo format=aoti device=cuda
"""

from omegaconf import DictConfig

from litedetr.cli.compose import as_mapping
from litedetr.cli.script import script
from litedetr.engine.distributed import use_all_cores
from litedetr.settings import from_mapping
from litedetr.tools.export.export_checkpoint import export_checkpoint
from litedetr.tools.export.export_config import ExportConfig


@script("export")
def main(cfg: DictConfig) -> None:
    use_all_cores()
    config = from_mapping(ExportConfig, as_mapping(cfg))
    exported = export_checkpoint(config, say=print)
    by_file, by_torch = exported.milliseconds
    *_, height, width = exported.agreements[0].shape
    print("", *exported.signature, sep="\n")
    print(f"one image of {height}x{width}: {by_file:.0f} ms, PyTorch {by_torch:.0f} ms")
    print(f"{exported.path}: {exported.num_bytes / 1e6:.1f} MB, made in {exported.seconds:.0f} s")


if __name__ == "__main__":
    main()
