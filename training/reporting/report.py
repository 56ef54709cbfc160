"""What a run tells while it learns: means of metrics, where the time went, a line and a bar."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.imagination import Dream
from training.collecting.rollout import EpisodeResult, Seconds, value_vs_obtained
from training.reporting import films, pictures
from training.reporting.progress import ProgressBar, console
from training.run_folder.run import Run
from training.schedule import Config, Schedule

SKIPPED = "/skipped"  # the metric of a part that counts updates which were not finite
EPISODE_FRAMES = 200  # of an episode's film, at most
ACTION_BINS = 16  # of histograms, from 0 to 1


class Reporter:
    """Metrics are summed up over the updates between two reports."""

    schedule: Schedule  # the trainer's

    def __init__(self, config: Config, run: Run, callback: Callable[[Mapping[str, float]], Any] | None) -> None:
        self.config, self.run, self.callback = config, run, callback
        # Since the last report: sums of metrics, and over how many updates each was summed; skipped ones do not count.
        self.sums: dict[str, Any] = {}
        self.counts: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.clocks = read_clocks()
        self.bar = ProgressBar(config.env_steps, 0)
        self.reported_steps = 0  # env steps at the last report
        self.tensorboard = run.metrics.tensorboard
        self.tensorboard.over_updates = not (config.env_steps or config.prefill)  # it never collects

    def add(self, metrics: Mapping[str, Tensor], updates: int = 1) -> None:
        """Of one update. updates: 0, if it is not counted as one, because it was another process's."""
        skipped = [value for name, value in metrics.items() if name.endswith(SKIPPED)]  # the same in all of its parts
        counted = 1 - skipped[0].detach().float() if skipped else torch.ones(())
        for name, value in {**metrics, "updates": torch.tensor(float(updates))}.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float()
            self.counts[name] = self.counts.get(name, 0) + counted

    def learned(self, began: float) -> None:
        """Updates have ended that began at a time of time.perf_counter(). Reading the sums waits for a GPU, whose work
        belongs to the time that is taken.
        """
        self.sums, self.counts = as_numbers(self.sums), as_numbers(self.counts)
        self.took(learn=time.perf_counter() - began)

    def state(self) -> dict[str, dict[str, float]]:
        """What a checkpoint holds of what was not reported yet."""
        self.take_clocks()
        return {"sums": as_numbers(self.sums), "counts": as_numbers(self.counts), "seconds": dict(self.seconds)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The reverse. Earlier versions had one count for all, and no seconds."""
        self.clocks = read_clocks()
        self.took(**state.get("seconds", {}))
        self.sums = dict(state.get("sums", {}))
        skipped = max([0.0, *(total for name, total in self.sums.items() if name.endswith(SKIPPED))])
        one = self.sums.get("updates", 0.0) - skipped
        self.counts = dict(state.get("counts") or dict.fromkeys(self.sums, one))

    def took(self, **seconds: float) -> None:
        """Time since the last report, by what it was for."""
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value

    def take_clocks(self) -> None:
        """What has passed since they were read the last time."""
        now = read_clocks()
        self.took(**{name: now[name] - before for name, before in self.clocks.items()})
        self.clocks = now

    def collected(self, seconds: Seconds, results: Sequence[EpisodeResult], values: Mapping[str, float]) -> None:
        """The episodes that have ended, and metrics of them."""
        self.took(collect=seconds.act + seconds.step, render=seconds.render)
        if results:
            self.show_actions("collect", results)
            self.log(values)
            self.show(collected=f"return {values['collect/return']:.1f}")

    def report(self) -> None:
        """The means over the updates since the last report, and where the time went."""
        number = float(self.sums.pop("updates"))
        skipped = {name.removesuffix(SKIPPED): total for name, total in self.sums.items() if name.endswith(SKIPPED)}
        values = {f"learn/{part}{SKIPPED}": total for part, total in skipped.items()}
        for name, total in self.sums.items():
            if not name.endswith(SKIPPED) and self.counts[name]:  # of nothing there is no mean
                values[f"learn/{name}"] = total / self.counts[name]
        self.sums, self.counts = {}, {}
        counters = dataclasses.asdict(self.schedule.counters)
        counts = {f"count/{name}": float(value) for name, value in counters.items()}
        rate = {"rate/updates_per_second": number / self.seconds["learn"]}
        self.take_clocks()  # of all that was done since the last report: what a run took is the sum, pauses left out
        steps = self.schedule.counters.env_steps - self.reported_steps
        self.reported_steps += steps
        if steps:
            rate["rate/env_steps_per_second"] = steps / self.seconds["wall_clock"]
        self.log(values | counts | rate | {f"seconds/{name}": value for name, value in self.seconds.items()})
        self.seconds = {}
        losses = [
            f"{name.removeprefix('learn/')} {value:.2f}"
            for name, value in values.items()
            if "/loss" in name or name.endswith(("actor/mean_solution", "actor/population_mean"))
        ]
        losses += [f"{part}: {total:.0f} updates skipped" for part, total in skipped.items() if total]
        self.show(learned=f"{', '.join(losses)}, {rate['rate/updates_per_second']:.1f} updates/s")

    # ---- pictures ----

    def begin(self, config: Mapping[str, Any]) -> None:
        """A run begins, or goes on."""
        counters = self.schedule.counters
        self.reported_steps = counters.env_steps
        self.tensorboard.describe(config, counters.env_steps, counters.updates)

    def show_dream(self, dream: Dream, temperature: float) -> None:
        name = "dream" if temperature == 1 else f"dream-temperature-{temperature:g}"
        self.show_picture(name, films.png(films.dream_frames(dream, temperature)))

    def show_episodes(self, results: Sequence[EpisodeResult], discount: float | None) -> None:
        """Evaluated ones: their actions, a film of the first, and what the critic said in it. discount: the critic's,
        if there is one.
        """
        self.show_actions("evaluate", results)
        episode, every = results[0].episode, -(-results[0].length // EPISODE_FRAMES)
        frames = films.episode_frames(episode.image, episode.reward, 2 * films.PANE, every)
        self.show_picture("episode", films.png(frames))
        if discount is not None and results[0].length > 1:
            values = value_vs_obtained(results[0], discount)
            self.show_picture("values", pictures.values(*values, self.run.folder.name))

    def show_actions(self, prefix: str, results: Sequence[EpisodeResult]) -> None:
        """How often each action was taken, in TensorBoard: of discrete ones their numbers, else one picture for each of
        the action's numbers.
        """
        counters, count = self.schedule.counters, self.run.spec.action_dim
        actions = np.concatenate([result.episode.action[1:] for result in results])  # (n, A)
        columns = {f"/{number}": actions[:, number] for number in range(count)}
        edges: np.ndarray = np.linspace(-1, 1, 2 * ACTION_BINS + 1)
        if self.run.spec.discrete:
            edges, columns = np.arange(count + 1) - 0.5, {"": actions.argmax(1)}
        for name, values in columns.items():
            tag = f"run/{prefix}/actions{name}"
            self.tensorboard.histogram(tag, values, edges, counters.env_steps, counters.updates)

    def show_picture(self, name: str, content: bytes) -> None:
        """In the run's folder, the newest one, and in TensorBoard."""
        counters = self.schedule.counters
        self.run.metrics.picture(name, content, counters.env_steps, counters.updates)

    def draw_curves(self) -> None:
        """Into the run's folder."""
        self.run.metrics.draw_curves()

    # ---- lines ----

    def log(self, values: Mapping[str, float]) -> None:
        """In the run's files, and to the caller of training.train."""
        counters = self.schedule.counters
        self.run.metrics.log(counters.env_steps, counters.updates, values)
        if self.callback:
            self.callback({"env_steps": counters.env_steps, "updates": counters.updates, **values})

    def show(self, **newest: str) -> None:
        """A line that stays, and the bar."""
        counters, text = self.schedule.counters, ", ".join(newest.values())
        if not self.schedule.prefilled and not self.config.env_steps:
            self.bar.update(self.schedule.collected, self.config.prefill, **newest)
        elif self.config.env_steps:
            self.bar.update(counters.env_steps, self.config.env_steps, **newest)
        counted = f"{counters.env_steps:>9,} env steps {counters.episodes:>5} episodes {counters.updates:>7} updates"
        console.print(f"{counted}  {text}")


def as_numbers(totals: Mapping[str, Any]) -> dict[str, Any]:
    """Of tensors or numbers."""
    return {name: float(total) for name, total in totals.items()}


def read_clocks() -> dict[str, float]:
    """Seconds. On a machine that others use, too, the processor's are what a run costs; without those of environments
    in processes of their own.
    """
    return {"wall_clock": time.perf_counter(), "cpu": time.process_time()}
