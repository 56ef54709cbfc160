"""Which row an action belongs to, in the files of other projects: a table, and how their files are told apart.

Two things differ. *Does action[t] lead to image[t], or follow it?* Do reward[t] and terminal[t] come with image[t], or
after the action that follows it? Files do not say so; losses still fall when it is wrong (docs/traps.md, 1). So a
layout is either known by marks that only one project leaves, or it is named: `data_layout=`. It is never guessed.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from worldmodel.replay.npz import RecordedError
from worldmodel.replay.scan import REWARD, Raw

DREAMER = r"\d{8}T\d{6}-[0-9a-f]{32}(-\d+)?"  # time, identifier, length
CHUNK = r"\d{8}T\d{6}F\d+-(\w+)-(\w+)-\d+"  # time, identifier, the identifier of the chunk that goes on, length
DRQ = r"\d{8}T\d{6}_\d+_\d+"  # time, number, length
DIGEST = r"[0-9a-f]{64}"


class Layout(NamedTuple):
    name: str
    project: str
    action: Literal["led", "follows"]  # action[t] led to image[t], or was taken there
    outcome: Literal["with_image", "after_action"]  # reward[t] and terminal[t]
    note: str = ""  # what else is peculiar

    @property
    def meaning(self) -> str:
        action = "action[t] led to image[t]" if self.action == "led" else "action[t] was taken at image[t]"
        reward = "came with image[t]" if self.outcome == "with_image" else "came after action[t]"
        return f"{action}, reward[t] {reward}"


LED, FOLLOWS = "action_led_to_image", "action_follows_image"
CUT = "the image after an episode's last action was not recorded, so that action and its reward are left out"
TABLE = (
    Layout(LED, "any", "led", "with_image"),
    Layout(FOLLOWS, "any", "follows", "after_action", f"without one image more than actions: {CUT}"),
    Layout("worldmodel", "a run's replay", "led", "with_image"),
    Layout("planet", "PlaNet", "led", "with_image", "no terminals"),
    Layout("dreamer_v1", "Dreamer", "led", "with_image", "terminal: a discount of 0"),
    Layout("dreamer_v2", "DreamerV2", "led", "with_image"),
    Layout("dreamer_v3", "DreamerV3", "follows", "with_image", "chunks are joined by the identifiers in their names"),
    Layout("vd4rl", "V-D4RL", "led", "with_image"),
    Layout("drqv2", "DrQ-v2", "led", "with_image", "the newest frame of a stack is taken; no terminals"),
    Layout("ogbench", "OGBench", "follows", "after_action", f"its terminals are mere ends; {CUT}"),
    Layout("world_models", "World Models, hardmaru", "follows", "after_action", CUT),
    Layout("world_models_ctallec", "World Models, ctallec", "led", "with_image",
           "the image at reset was not recorded, so the first action is left out; done after the last action that was "
           "planned is a time limit"),
    Layout("stable_worldmodel", "stable-worldmodel", "follows", "with_image"),
    Layout("minari", "Minari", "follows", "after_action", "one image more than actions"),
)  # fmt: skip
LAYOUTS = {layout.name: layout for layout in TABLE}


class Ambiguous(RecordedError):
    """Two readings are possible, and nothing tells which is right."""

    def __init__(self, why: str, *names: str) -> None:
        self.readings = [LAYOUTS[name] for name in names]
        width = max(map(len, names))
        lines = [f"  data_layout={one.name:<{width}}  {one.meaning}" for one in self.readings]
        super().__init__("\n".join([f"{why}. Say which it is:", *lines]))


class Marks(NamedTuple):
    """What tells layouts apart, of all files together."""

    keys: frozenset[str]  # that all have
    stems: list[str]  # names of files without the suffix
    extra: set[int]  # of each file: actions less images
    first_zero: bool  # actions and rewards in all first rows are 0, or not a number
    last_zero: bool  # actions in all last rows are
    last_nan: bool
    several: bool  # episodes in a file

    def named(self, pattern: str) -> bool:
        return all(re.fullmatch(pattern, stem) for stem in self.stems)

    def have(self, *keys: str) -> bool:
        return self.keys.issuperset(keys)


def marks(raws: Sequence[Raw]) -> Marks:
    full = [raw for raw in raws if len(raw.action) == raw.rows]
    begin = [values[raw.first][raw.amid[0] :] for raw in full for values in (raw.action, raw.reward)
             if values is not None and len(values) == raw.rows]  # fmt: skip
    last = [raw.action[raw.last][: -1 if raw.amid[1] else None] for raw in full]
    return Marks(
        frozenset.intersection(*(raw.keys for raw in raws)),
        [path.stem for raw in raws for path in raw.paths],
        {len(raw.action) - raw.rows for raw in raws},
        any(map(len, begin)) and not any(np.nan_to_num(values).any() for values in begin),
        any(map(len, last)) and not any(np.nan_to_num(values).any() for values in last),
        any(map(len, last)) and all(np.isnan(values.astype(np.float32)).all() for values in last),
        any(raw.episodes > 1 for raw in raws),
    )


def detect(raws: Sequence[Raw]) -> tuple[Layout, str]:
    """The layout, and by what it is known. Errors: Ambiguous."""
    seen = marks(raws)
    if all(len(raw.action) == raw.rows - raw.episodes for raw in raws):
        return LAYOUTS[FOLLOWS], "there is one image more than actions in each episode"
    if seen.named(DIGEST) and seen.keys == {"image", "action", "reward", "terminal"}:
        return LAYOUTS["worldmodel"], "files are named by the digest of what they hold"
    found = chunks_or_episodes(seen) or world_models(seen)
    if found:
        return LAYOUTS[found[0]], found[1]
    first = "are" if seen.first_zero else "are not"
    raise Ambiguous(
        f"there are as many actions as images, their first rows {first} zero, and neither the names of arrays "
        f"({', '.join(sorted(seen.keys)[:8])}) nor those of files ({seen.stems[0]}, ...) are a known project's",
        LED, FOLLOWS,
    )  # fmt: skip


def chunks_or_episodes(seen: Marks) -> tuple[str, str] | None:
    """Dreamer, PlaNet and what has their form."""
    if seen.have("is_first", "stepid") or (seen.have("is_first") and seen.named(CHUNK)):
        return "dreamer_v3", "the files are chunks of a DreamerV3 replay" + " (stepid)" * seen.have("stepid")
    if seen.have("ep_len", "ep_offset") and seen.last_nan:
        return "stable_worldmodel", "of ep_len and ep_offset, and actions that are not a number in last rows"
    if seen.named(DRQ) and seen.have("observation", "action", "reward", "discount") and seen.first_zero:
        return "drqv2", "of the names of files and arrays, and first rows are zero"
    if seen.named(DREAMER) and seen.first_zero:
        name = "dreamer_v2" if seen.have("is_first") else "dreamer_v1" if seen.have("discount") else "planet"
        name = "vd4rl" if seen.have("is_first", "is_last", "is_terminal", "discount") else name
        return name, "of the names of files and arrays, and first rows are zero"
    if seen.have("step_type", "discount") and (seen.first_zero or not seen.last_zero):
        return "vd4rl", "of step_type, which dm_env gives to the image that an action led to"
    if seen.have("is_first", "is_last", "is_terminal"):  # in DreamerV2, and in DreamerV3
        if seen.first_zero and not seen.last_zero:
            return (
                "dreamer_v2",
                "of is_first, is_last and is_terminal; actions are zero in first rows, not in last ones",
            )
        if seen.last_zero and not seen.first_zero:
            return (
                "dreamer_v3",
                "of is_first, is_last and is_terminal; actions are zero in last rows, not in first ones",
            )
        both = "both first and last" if seen.first_zero else "neither first nor last"
        why = f"is_first, is_last and is_terminal are DreamerV2's and DreamerV3's, and {both} rows hold zeros"
        raise Ambiguous(why, "dreamer_v2", "dreamer_v3")
    return None


def world_models(seen: Marks) -> tuple[str, str] | None:
    """World Models and OGBench."""
    rewards = any(name in seen.keys for name in REWARD)
    rollout = seen.have("observations", "actions", "rewards", "terminals") and not seen.several
    if rollout and min(seen.extra) >= 0 and (max(seen.extra) > 0 or seen.named(r"rollout_\d+")):
        known = "files are called rollout_*" if seen.named(r"rollout_\d+") else "there are more actions than images"
        return "world_models_ctallec", f"{known}, with observations, actions, rewards and terminals"
    if seen.keys == {"obs", "action"} and seen.named(r"\d+"):
        return "world_models", "files are called by a number and hold obs and action"
    named = seen.named(r".*-v\d+(-val)?") or seen.have("qpos") or seen.have("button_states")
    if seen.have("observations", "actions", "terminals") and not rewards and (seen.several or named):
        return "ogbench", "of observations, actions, terminals and no rewards"
    return None


def joined(paths: Sequence[Path]) -> list[tuple[Path, ...]]:
    """DreamerV3's chunks, those that go on with each other together: a chunk's name holds that of its successor."""
    parts = {path: re.fullmatch(CHUNK, path.stem) for path in paths}
    by_own = {(path.parent, part[1]): path for path, part in parts.items() if part}
    after = {path: by_own.get((path.parent, part[2])) for path, part in parts.items() if part}
    later = set(after.values())
    chains: list[tuple[Path, ...]] = []
    done: set[Path] = set()
    for path in [*(path for path in paths if path not in later), *paths]:  # then what only follows itself
        chain: list[Path] = []
        following: Path | None = path
        while following and following not in done:
            chain.append(following)
            done.add(following)
            following = after.get(following)
        if chain:
            chains.append(tuple(chain))
    return chains
