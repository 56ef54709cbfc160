"""Where a key that is not known in its place would belong: to another component, or in another section."""

from collections.abc import Iterator, Mapping, Sequence

import yaml
from pydantic import BaseModel

from training.configuration.components import CONFIGS, ROOMS, config_folders

MOST = 3  # that are named


def elsewhere(section: str, key: str, sections: Mapping[str, type[BaseModel]], plugins: Sequence[str] = ()) -> str:
    """'; env=gym has it', or '; did you mean ...?'; empty, if nothing has a key of exactly this name. sections: those
    that are no component's. section: '' is the root.
    """
    if section in ROOMS:
        others = list(components_with(section, key, plugins))
        if others:
            return f"; {', '.join(f'{section}={name}' for name in others)} {'has' if len(others) == 1 else 'have'} it"
    found = [name for name, model in sections.items() if key in model.model_fields]
    found += [room for room in ROOMS if any(components_with(room, key, plugins))]
    places = [f"{name}.{key}" for name in found if name != section and key != "name"]
    return f"; did you mean {' or '.join(map(repr, places[:MOST]))}?" if places else ""


def components_with(section: str, key: str, plugins: Sequence[str] = ()) -> Iterator[str]:
    """The components of a section whose files have a key. Of several sizes of one the plain one is named."""
    for folder in (CONFIGS, *config_folders(plugins)):
        for path in sorted((folder / section).glob("*.yaml")):
            try:
                values = yaml.safe_load(path.read_text("utf8"))
            except (OSError, yaml.YAMLError):
                continue
            if isinstance(values, dict) and key in values and values.get("name") == path.stem:
                yield path.stem
