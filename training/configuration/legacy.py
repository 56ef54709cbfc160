"""Runs that were written by earlier versions: their keys, counters and weights under today's names."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

# By section, old key -> new key. What changed its form, too, is in upgrade_config.
RENAMED: dict[str, dict[str, str]] = {
    "": {"salvage": "skip_damaged"},
    "train": {"steps": "env_steps", "seed_episodes": "prefill", "keep": "keep_checkpoints"},
    "replay": {"batch": "batch_size", "length": "batch_length"},
    "env": {"count": "num_envs"},
    "model": {"reward_unit": "reward_divisor", "bits": "bit_depth", "cell": "cell_in_features",
              "tell_first": "input_is_first"},
    "actor": {"noise": "exploration_noise", "ordered": "ordinal_actions", "reads": "num_features",
              "judge_every": "eval_every", "judge_rollouts": "eval_rollouts"},
}  # fmt: skip
RENAMED_KEYS = {
    f"{section}.{old}".lstrip("."): f"{section}.{new}".lstrip(".")
    for section, keys in RENAMED.items()
    for old, new in keys.items()
} | {
    "train.round_episodes": "train.collect.per_round",
    "actor.world": "actor.evaluate_in=env or model",
    "env.workers": "env.vectorization_mode=sync or async",
    "agent.learning_rate": "agent.optimizers.model.learning_rate",
    "agent.epsilon": "agent.optimizers.model.eps",
    "agent.clip": "agent.optimizers.model.max_grad_norm",
    "parts": "a file of its own for each component, in configs/",
    "worlds": "a recipe of its own for each environment, in configs/exp/",
}
# Of a stage, train.learn.<stage>.<old key>; {} is its name.
RENAMED_STAGE_KEYS = {
    "batch": "train.learn.{}.batch_size",
    "length": "train.learn.{}.batch_length",
    "learning_rate": "agent.optimizers.{}.learning_rate",
}
# Keys that came later, with the values that change nothing in runs that were written before.
ADDED: dict[str, dict[str, Any]] = {
    "agent": {"compile": "auto"},
    "replay": {"context": False, "storage": "auto", "memory_gb": None},
    "train": {"ratio": None, "max_failures": 10, "pretrain": 0},
    "env": {"fit": "stretch", "wrappers": []},
}
ADDED_TO_ROOT: dict[str, Any] = {
    "resume": None,
    "keep_episodes": False,
    "data_layout": None,
    "data_size": None,
    "data_gray": False,
}
ADDED_SECTIONS: dict[str, dict[str, Any]] = {
    "ray": {"address": None, "object_store_mb": 512, "collector_gpus": 0, "controller_gpus": 0},
}
ADDED_TO_TRAIN: dict[str, dict[str, Any]] = {  # to sections within it
    "collect": {"mode": "sync", "workers": 1, "max_staleness": 100},
    "learn": {"mode": "alternate", "max_staleness": 100},
}
ADDED_TO_COMPONENTS: dict[tuple[str, str], dict[str, Any]] = {
    ("env", "dmc"): {"supersample": 1},
    ("model", "rssm"): {"normalise": False},
    ("objective", "reward"): {"value_at_horizon": False},
}
WEIGHTS = {"enter.": "input_proj.", "lstm.enter.": "lstm.input_proj.", "lstm.recur.": "lstm.recurrent_proj."}
COUNTERS = {
    "played": "fitness_env_steps",
    "evaluated": "last_eval_collected",
    "saved": "last_save_collected",
    "evaluated_updates": "last_eval_updates",
    "saved_updates": "last_save_updates",
    "saved_evaluations": "last_save_evaluations",
}


def upgrade_config(config: dict[str, Any]) -> dict[str, Any]:
    """config.yaml as today's version would have written it."""
    new = {key: dict(value) if isinstance(value, dict) else value for key, value in config.items()}
    train, agent, actor = (new.get(section) or {} for section in ("train", "agent", "actor"))
    if isinstance(train, dict) and "steps" in train:
        upgrade_optimizers(train, agent)
        train["collect"] = {"unit": "episodes", "per_round": train.pop("round_episodes", 1)}
        new.pop("parts", None)
        new["objective"], new["plugins"] = {"name": "reward"}, []
        if isinstance(new.get("env"), dict) and "workers" in new["env"]:
            new["env"]["vectorization_mode"] = "async" if new["env"].pop("workers") else "sync"
        if "world" in actor:
            actor["evaluate_in"] = "env" if actor.pop("world") else "model"
        if actor.get("name") == "mppi":
            actor["inverse_temperature"] = actor.pop("temperature")
        for section in ("actor", "explorer"):
            if isinstance(new.get(section), dict) and new[section].get("name") == "held":
                new[section]["name"] = "repeated_random"
        for section, keys in RENAMED.items():
            values = new if not section else new.get(section)
            if isinstance(values, dict):
                renamed = {keys.get(key, key): value for key, value in values.items()}
                values.clear()
                values |= renamed
    new = {**ADDED_TO_ROOT, **ADDED_SECTIONS, **new}
    for section, values in ADDED.items():
        if isinstance(new.get(section), dict):
            new[section] = values | new[section]
    for section, values in ADDED_TO_TRAIN.items():
        if isinstance(train, dict) and isinstance(train.get(section), dict):
            new["train"] = {**new["train"], section: values | new["train"][section]}
    for (section, name), values in ADDED_TO_COMPONENTS.items():
        if isinstance(new.get(section), dict) and new[section].get("name") == name:
            new[section] = values | new[section]
    return new


def upgrade_optimizers(train: dict[str, Any], agent: dict[str, Any]) -> None:
    """One rate for the model and others for stages become one optimiser for each part."""
    default = {
        "kind": "adam",
        "learning_rate": agent.pop("learning_rate"),
        "eps": agent.pop("epsilon"),
        "max_grad_norm": agent.pop("clip"),
    }
    agent["optimizers"], stages = {"model": default}, {}
    for name, values in train["learn"].items():
        stage = {
            {"batch": "batch_size", "length": "batch_length"}.get(key, key): value for key, value in values.items()
        }
        rate = stage.pop("learning_rate", None)
        if rate:
            agent["optimizers"][name] = default | {"learning_rate": rate}
        stages[name] = stage
    train["learn"] = stages


def upgrade_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of run.json."""
    names = {"image": "image_shape", "action": "action_dim"}
    return {names.get(key, key): value for key, value in spec.items()}


def upgrade_counters(counters: Mapping[str, Any]) -> dict[str, Any]:
    return {COUNTERS.get(key, key): value for key, value in counters.items()}


def upgrade_tensors(file: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint's file by today's names. file: model, actor, optim, ..."""
    if file == "model":
        return {upgrade_name(name): value for name, value in tensors.items()}
    if file == "optim" and "skipped" in tensors:
        skipped = tensors["skipped"]
        parts = {"vision", "memory"} if any(name.startswith("vision.") for name in tensors) else {"model"}
        kept = {name: value for name, value in tensors.items() if name.startswith("scaler/")}
        moved = {
            f"model/{upgrade_name(name)}": value
            for name, value in tensors.items()
            if name != "skipped" and name not in kept
        }
        return moved | kept | {f"skipped/{part}": skipped for part in parts}
    return tensors


def upgrade_name(name: str) -> str:
    old = next((prefix for prefix in WEIGHTS if name.startswith(prefix)), "")
    return WEIGHTS.get(old, "") + name[len(old) :]
