"""size=...: a recipe's model and actor in another size, from the table in configs/sizes.yaml."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from training.configuration.components import CONFIGS, nearest
from worldmodel.base import ConfigError


def with_size(
    overrides: Sequence[str], compose: Callable[[Sequence[str]], tuple[Any, Mapping[str, str], Any]]
) -> list[str]:
    """The overrides, with the files that size=... stands for instead of it. Errors: ConfigError."""
    sizes = [word for word in overrides if word.startswith("size=")]
    others = [word for word in overrides if not word.startswith("size=")]
    if not sizes:
        return others
    asked, keys = sizes[-1].partition("=")[2], [word.partition("=")[0] for word in others]
    clash = next((key for key in ("model", "actor") if key in keys), None)
    if clash:
        raise ConfigError([f"size: {clash}= chooses a file, and so does size={asked}: give one of them"])
    table = yaml.safe_load((CONFIGS / "sizes.yaml").read_text("utf8"))
    _, choices, _ = compose(others)
    known = table.get(choices["model"])
    if known is None:
        with_sizes = ", ".join(f"exp={name}" for name in table)
        raise ConfigError([f"size: model={choices['model']} has one size only; sizes are for {with_sizes}"])
    if asked not in known:
        raise ConfigError([f"size: there is no {asked!r}; choose from {', '.join(known)}{nearest(asked, list(known))}"])
    return [*others, *(f"{group}={name}" for group, name in known[asked].items())]
