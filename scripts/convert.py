"""Turn a file of the published Lite-DETR or DINO code into a checkpoint for eval.py and train.py.

python scripts/convert.py <published.pth> <out.pt> num_high_levels=3
"""

import argparse
import sys

from litedetr.cli.script import on_command_line
from litedetr.settings import from_mapping
from litedetr.tools.convert import ConvertConfig, convert
from litedetr.tools.plain_settings import plain_settings

HELP = (
    "num_high_levels: x of HxLy, null for a full encoder; annotations: COCO JSON with the class names, COCO's own by "
    "default; overwrite=true replaces out"
)


@on_command_line()
def main() -> None:
    print(convert(arguments(sys.argv[1:])))


def arguments(argv: list[str]) -> ConvertConfig:
    """Two paths, then settings of ConvertConfig as name=value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("published", help="file of the published code")
    parser.add_argument("out", help="checkpoint to write")
    parser.add_argument("settings", nargs="*", metavar="name=value", help=HELP)
    given = parser.parse_args(argv)
    paths = {"published": given.published, "out": given.out}
    return from_mapping(ConvertConfig, paths | plain_settings(given.settings))


if __name__ == "__main__":
    main()
