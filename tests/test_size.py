"""size=...: a recipe's model and actor in another size."""

import re

import pytest
import runs
import yaml

from training.build import build_agent
from training.configuration import command_line
from training.configuration.components import CONFIGS
from training.configuration.resolve import resolve
from worldmodel.base import ConfigError, Spec

TABLE = (CONFIGS / "sizes.yaml").read_text("utf8")


def test_it_chooses_the_files_of_the_table_and_names_the_run() -> None:
    one, usual = runs.composed("exp=dreamer_v3", "size=1M"), runs.composed("exp=dreamer_v3")
    assert (one.model.deter, one.actor.units) == (512, 64) and one.root.run == "dreamer_v3-size=1M"
    assert runs.composed("exp=dreamer_v3", "size=12M").model == usual.model
    for size, files in yaml.safe_load(TABLE)["dreamer_v3"].items():
        chosen = runs.composed("exp=dreamer_v3", f"size={size}")
        assert chosen.model == runs.composed("exp=dreamer_v3", f"model={files['model']}").model
        assert chosen.actor == runs.composed("exp=dreamer_v3", f"actor={files['actor']}").actor


def test_the_parameters_in_the_table_are_right() -> None:
    counts = re.findall(r"(\w+): .*# ([0-9,]+)$", TABLE, re.M)
    assert [size for size, _ in counts] == ["1M", "12M"]
    for size, said in counts:
        agent = build_agent(
            runs.composed("exp=dreamer_v3", f"size={size}", "agent.device=cpu"), Spec((3, 64, 64), 6, False)
        )
        learned = sum(p.numel() for part in (agent.model, agent.actor) for ps in part.parts().values() for p in ps)
        assert f"{learned:,}" == said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("exp=dreamer_v3", "size=3M"), "size: there is no '3M'; choose from 1M, 12M, 25M, 50M, 100M, 200M"),
        (("exp=planet", "size=1M"), "size: model=rssm has one size only; sizes are for exp=dreamer_v3"),
        (("exp=dreamer_v3", "size=1M", "model=rssm"), "size: model= chooses a file, and so does size=1M"),
    ],
)
def test_what_does_not_go_together_is_said(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        resolve(words, command_line.compose)
