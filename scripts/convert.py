"""Turn a file of the published Lite-DETR or DINO code into a checkpoint for eval.py and train.py.

python scripts/convert.py <published.pth> <out.pt> num_high_levels=3
"""

import argparse
import sys

from _common import as_mapping
from _errors import clear_errors
from omegaconf import DictConfig, OmegaConf

from litedetr.config import from_mapping
from litedetr.engine import ConvertConfig, convert


@clear_errors
def main(cfg: DictConfig) -> None:
    print(convert(from_mapping(ConvertConfig, as_mapping(cfg))))


def arguments(argv: list[str]) -> DictConfig:
    """Two paths, then settings of ConvertConfig as name=value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("published", help="file of the published code")
    parser.add_argument("out", help="checkpoint to write")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="name=value",
        help="num_high_levels: x of HxLy, null for a full encoder; annotations: COCO JSON with the class names, "
        "COCO's own by default; overwrite=true replaces out",
    )
    given = parser.parse_args(argv)
    odd = [setting for setting in given.settings if "=" not in setting]
    if odd:
        parser.error(f"expected name=value, got {', '.join(odd)}")
    return OmegaConf.merge({"published": given.published, "out": given.out}, OmegaConf.from_dotlist(given.settings))


if __name__ == "__main__":
    main(arguments(sys.argv[1:]))
