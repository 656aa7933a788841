"""What --help prints beside the settings: what the script does, and the groups that it knows with their choices."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from litedetr.cli.compose import CONFIG_FOLDER

GROUPS = {
    "model": "a whole system",
    "encoder": "how levels are updated (a: high-level updates of a block, b: blocks); what `model` says unless given",
    "decoder": "query selection and decoder; what `model` says unless given",
    "attention": "where attention weights come from; what `model` says unless given",
    "size": "widths, heads, queries",
    "loss": "what class scores learn, and what of it the matching knows",
    "backbone": "the network before the encoder, and where its weights come from",
    "data": "shapes are drawn here, coco is any set in COCO's format (data.root=...)",
    "transforms": "at what sizes images are seen; what `data` says unless given",
    "schedule": "rates, length, batch",
    "experiment": "whole settings",
    "draw": "the pictures; each choice has settings of its own",
}


def offer_help(main: Callable[..., None]) -> None:
    """Define what conf/script.yaml refers to in the text of --help, for the script of the function `main`."""
    about = (sys.modules[main.__module__].__doc__ or "").strip()
    OmegaConf.register_new_resolver("about_script", lambda: about, replace=True)
    OmegaConf.register_new_resolver("choices_of_groups", choices_of_groups, replace=True)


def choices_of_groups(_root_: DictConfig) -> str:
    """The groups of conf/ that the composed settings are made from, with all files there are to choose from."""
    known = _root_.hydra.runtime.choices
    lines = ["", "Groups, chosen by name (group=choice); each choice is a file, conf/<group>/<choice>.yaml:"]
    for group, what in GROUPS.items():
        if group in known:
            choices = sorted(path.stem for path in (Path(CONFIG_FOLDER) / group).glob("*.yaml"))
            lines.append(f"  {group:<12} {what}")
            lines += textwrap.wrap(", ".join(choices), 105, initial_indent=" " * 17, subsequent_indent=" " * 17)
    return "\n".join([*lines, ""]) if len(lines) > 2 else ""
