"""How fast the Dreamers are:  python benchmarks/dreamer_speed.py --json out.json [--beside r2dreamer=<its folder>]

One update of model, actor and critic at the published sizes and batches, and acting for 1 and 16 environments. Each
stands beside the same mathematics in eager float32 ("plain", our own code without what makes it fast) and beside its
floor: the operations that the plain one counts over the matrix rate measured here. With --beside, V3's update is also
measured beside r2dreamer's (NM512/r2dreamer, rep_loss=dreamer), the same sizes, batch and threads, in float32 and in
bfloat16. All are measured in turns in one process, so that ratios hold on a noisy machine. Times are medians. With
--compile=ours our steps are compiled on a CPU, too, and measured without that afterwards; with --compile=both the whole
of r2dreamer's gradients as well, which did not come to an end in eleven minutes.

r2dreamer needs `tensordict` (pip install --target somewhere --no-deps tensordict pyvers orjson cloudpickle
importlib_metadata zipp, and PYTHONPATH=somewhere); nothing of it is part of this project.
"""

import argparse
import contextlib
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from agents.agent import Agent  # noqa: E402
from benchmarks.measuring import beside, device_name, machine, matrix_rate, timed  # noqa: E402
from benchmarks.speed import SPEC, agent, filled  # noqa: E402
from worldmodel.base import Batch  # noqa: E402

JOINT = ("model", "actor")
SIZES = {  # name: model, actor, sequences, rows
    "V3 1M": ("dreamer_v3_1M", "dreamer_v3_1M", 16, 64),
    "V3 12M": ("dreamer_v3", "dreamer_v3", 16, 64),
    "V2": ("dreamer_v2", "dreamer_v2", 16, 50),
    "V1": ("dreamer_v1", "dreamer_v1", 50, 50),
}
THEIRS = {  # r2dreamer's own names of a size
    "V3 1M": dict(deter=512, hidden=64, discrete=4, depth=4, units=64),
    "V3 12M": dict(deter=2048, hidden=256, discrete=16, depth=16, units=256),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--only", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--compile", default="auto", choices=["auto", "ours", "both"], help="on a CPU, too")
    parser.add_argument("--beside", help="r2dreamer=<its folder>")
    options = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    for name in options.only:
        figures |= measure(name, options)
        for key in list(figures)[-4:]:
            print(f"{key:28}", "  ".join(f"{k} {v:.4g}" for k, v in figures[key].items()), flush=True)
        if options.json:  # after each, for the next one may be stopped
            found = {"machine": machine() | {"device": device_name(options.device)}, "figures": figures}
            options.json.write_text(json.dumps(found, indent=2) + "\n")


def built(name: str, device: str, precision: str, compiled: str) -> Agent:
    model, actor, *_ = SIZES[name]
    return agent(device, precision, model, actor, compile=compiled)


def measure(name: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    *_, sequences, rows = SIZES[name]
    compiled = "auto" if options.compile == "auto" else "always"
    ours, plain = built(name, options.device, "auto", compiled), built(name, options.device, "fp32", "never")
    rate = matrix_rate(ours.device, torch.bfloat16 if ours.precision == "bf16" else torch.float32)
    batch = filled().sample(np.random.default_rng(0), sequences, rows)
    batch = batch.to(ours.device)
    title = f"{name} update {sequences}x{rows}" + (", compiled" if compiled == "always" else "")
    first_seconds = timed(lambda: ours.learn(batch, JOINT), ours.device, 1)
    found = {
        title: beside(
            lambda: ours.learn(batch, JOINT), lambda: plain.learn(batch, JOINT), ours.device, rate, options.repeats
        )
    }
    if compiled == "always":
        as_it_is = built(name, options.device, "auto", "never")
        as_it_is.learn(batch, JOINT)
        seconds = timed(lambda: as_it_is.learn(batch, JOINT), ours.device, options.repeats)
        found[title] |= {"first_seconds": first_seconds, "not_compiled_seconds": seconds}
    for n in (1, 16):
        image = np.zeros((n, *SPEC.image_shape), np.uint8)
        first = np.zeros(n, bool)
        _, memory = ours.act(None, image, mode="explore")
        seconds = timed(lambda m=memory, i=image, f=first: ours.act(m, i, f, "explore"), ours.device, 20)
        found[f"{name} act, {n} env"] = {"seconds": seconds}
    if options.beside and name in THEIRS:
        place = options.beside.partition("=")[2]
        for precision in ("bf16", "fp32"):
            found[title] |= other(name, place, batch, ours, precision, options)
        ratios = [found[title][f"times_faster_than_r2dreamer_{precision}"] for precision in ("bf16", "fp32")]
        found[title]["times_faster_than_r2dreamer"] = min(ratios)  # than its faster one
    return found


# ---- r2dreamer ----


def other(
    name: str, place: str, batch: Batch, ours: Agent, precision: str, options: argparse.Namespace
) -> dict[str, float]:
    """r2dreamer's update of the same batch, in turns with ours: medians, and what its first took (it compiles then)."""
    update = their_update(name, place, batch, ours.device, precision, options.compile)
    first_seconds = timed(update, ours.device, 1)
    print(f"r2dreamer {precision}: the first update took {first_seconds:.0f} s; now in turns", flush=True)
    theirs, own = [], []
    for _ in range(options.repeats):
        theirs.append(timed(update, ours.device, 1))
        own.append(timed(lambda: ours.learn(batch, JOINT), ours.device, 1))
    seconds, our_seconds = statistics.median(theirs), statistics.median(own)
    print(f"r2dreamer {precision}: {seconds:.3f} s, ours {our_seconds:.3f} s", flush=True)
    return {
        f"r2dreamer_{precision}_seconds": seconds,
        f"r2dreamer_{precision}_first_seconds": first_seconds,
        f"seconds_beside_r2dreamer_{precision}": our_seconds,
        f"times_faster_than_r2dreamer_{precision}": seconds / our_seconds,
    }


class Names(dict[str, Any]):
    """A mapping whose keys are attributes, too, as its configs are."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__  # type: ignore[assignment]

    @classmethod
    def of(cls, plain: Any) -> Any:
        if isinstance(plain, dict):
            return cls({key: cls.of(value) for key, value in plain.items()})
        with contextlib.suppress(ValueError):  # YAML takes 4e-5 for a word
            return float(plain) if isinstance(plain, str) else plain
        return plain


def their_update(name: str, place: str, batch: Batch, device: torch.device, precision: str, compiled: str) -> Any:
    """A call that does what its Dreamer.update does with a batch: gradients, clipping, optimiser, slow critic.
    compiled: its own way, as one piece; on a CPU for "both" only.
    """
    sys.path.insert(0, place)
    import gymnasium
    from dreamer import Dreamer  # type: ignore[import-not-found]
    from tensordict import TensorDict  # type: ignore[import-not-found]

    values = {"device": device, "env.encoder.mlp_keys": "$^", "env.encoder.cnn_keys": "image", "model.act": "SiLU",
              "env.decoder.mlp_keys": "$^", "env.decoder.cnn_keys": "image", "model.norm": "true"}  # fmt: skip
    values |= {f"model.{key}": value for key, value in THEIRS[name].items()}
    text = (Path(place) / "configs" / "model" / "_base_.yaml").read_text("utf8")
    for key, value in values.items():
        text = text.replace(f"${{{key}}}", str(value))
    config = Names.of(yaml.safe_load(text) | dict(act="SiLU", norm=True) | THEIRS[name])
    config.rep_loss, config.compile = "dreamer", device.type == "cuda" or compiled == "both"
    channels, *shape = SPEC.image_shape
    space = gymnasium.spaces.Dict({"image": gymnasium.spaces.Box(0, 255, (*shape, channels), np.uint8)})
    torch.manual_seed(0)
    with contextlib.redirect_stdout(None):
        dreamer = Dreamer(config, space, gymnasium.spaces.Box(-1, 1, (SPEC.action_dim,), np.float32)).to(device)
    b, t = batch.reward.shape
    data = TensorDict(
        {
            "image": batch.image.permute(0, 1, 3, 4, 2),
            "action": batch.action,
            "reward": batch.reward[..., None],
            "is_first": batch.first,
            "is_last": batch.terminal[..., None],
            "is_terminal": batch.terminal[..., None],
        },
        batch_size=(b, t),
    )
    initial = tuple(part.clone() for part in dreamer.rssm.initial(b))
    dreamer._scaler = torch.amp.GradScaler(enabled=False)

    def update() -> None:
        dreamer._update_slow_target()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            dreamer._cal_grad(dreamer.preprocess(data.clone()), initial)
        dreamer._agc(dreamer._named_params.values())
        dreamer._optimizer.step()
        dreamer._scheduler.step()
        dreamer._optimizer.zero_grad(set_to_none=True)

    return update


if __name__ == "__main__":
    main()
