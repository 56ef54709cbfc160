"""One walks in a world and in a model's dream of it, side by side. Who acts is the agent or a human. No web here.

The model looks at every image of the world (`observed`) and, from the same actions, dreams on with its eyes closed
(`dreamt`). In the place "world" an action goes to both, and after `open_loop` steps the dream looks again; in the place
"dream" it goes to the dream alone, and the world waits. Without an environment there is only the dream, which begins at
recorded rows.

What is drawn changes nothing: the agent decides once a step, from the stream of random numbers that evaluate.py uses,
and everything that is only looked at is imagined with others.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from agents.agent import Agent
from agents.base import ActorInfo
from agents.reward_and_value import RewardAndValue
from viewer.futures import Futures, critic_of, imagine_futures, to_bytes
from worldmodel.base import Batch, State, tree_map
from worldmodel.networks.dense import packed_weights

OTHERS, SHOWN = 6, 12  # futures beside the plan, and pictures of each
FAILED = "it failed"
Place = Literal["world", "dream"]


class View(NamedTuple):
    """What there is to see after a step. Pictures (C, Y, X) uint8."""

    step: int  # since the last reset
    environment: np.ndarray
    reconstruction: np.ndarray
    dream: np.ndarray
    eyes_closed: int  # steps that the dream has gone without looking
    action: np.ndarray  # (A,) that led here
    reward: float  # of the world; NaN where it did not move
    imagined_reward: float  # of the dream
    total: float  # rewards of the world's episode, or of the dream
    value: float  # what the actor's critic expects from here; NaN if it has none
    alive: float  # probability that the dreamt state is no end
    ended: str  # why the episode is over, or ""


class Outlook(NamedTuple):
    """A prediction of the return over so many steps, made at a step, and what was obtained then; NaN before that."""

    step: int
    predicted: float
    obtained: float


class Session:
    """`agent` in `env`, or without one in dreams that start from `recorded(seed)`, rows (1, T, ...) of replay; with
    neither, from nothing. Errors: envs.EnvError.
    """

    def __init__(
        self, agent: Agent, env: gymnasium.Env | None, recorded: Callable[[int], Batch] | None = None, seed: int = 0
    ) -> None:
        self.agent, self.env, self.recorded = agent, env, recorded
        self.place: Place = "dream" if env is None else "world"
        self.temperature, self.open_loop, self.horizon = 1.0, 50, 15
        self.seed = seed
        self.reset(seed)

    # ---- beginning ----

    def reset(self, seed: int | None = None) -> View:
        """Begin an episode; with the same seed the same one."""
        self.seed = self.seed + 1 if seed is None else seed
        torch.manual_seed(self.seed)
        self.carry: Any = tree_map(lambda a: a.to(self.agent.device), self.agent.actor.initial(1))
        self.step_number = 0
        self.total, self.ended = {"world": 0.0, "dream": 0.0}, {"world": FAILED, "dream": ""}
        with self.computing():
            self.observed = self.agent.model.initial(1)
            no_action = np.zeros(self.agent.spec.action_dim, np.float32)
            self.image = np.zeros(self.agent.spec.image_shape, np.uint8)
            if self.env is not None:
                self.image, _ = self.env.reset(seed=self.seed)
                self.observe(no_action, first=True)
            elif self.recorded is not None:
                batch = self.recorded(self.seed)
                image, action, first = (a[0].cpu().numpy() for a in (batch.image, batch.action, batch.first))
                for t, self.image in enumerate(image):
                    self.observe(action[t], first=t == 0 or bool(first[t]))
            else:  # a first step from nothing, as every episode begins
                self.observed = self.agent.model.imagine(self.observed, self.tensor(no_action))
        self.action, self.reward, self.imagined_reward = no_action, math.nan, math.nan
        self.ended["world"] = ""
        return self.wake()

    def wake(self) -> View:
        """The dream looks: it goes on from what the model makes of the world."""
        self.dreamt, self.eyes_closed = self.observed, 0
        self.total["dream"], self.ended["dream"] = 0.0, ""
        return self.turn()

    def go(self, place: Place) -> View:
        """Act in the world, or in the dream. Where there is no environment one stays in the dream."""
        self.place = "dream" if self.env is None else place
        return self.wake()

    def turn(self) -> View:
        """What was meant to be done, and was predicted, no longer follows from what was seen."""
        self.decided: tuple[Tensor, ActorInfo] | None = None
        self.rewards: list[float] = []  # since then
        self.predictions: list[tuple[int, float, int]] = []  # rewards before, predicted, horizon
        return self.view()

    # ---- acting ----

    def step(self, human: np.ndarray | None = None) -> View:
        """One step by the agent, or with a human's action (A,), in [-1, 1] or one-hot. After an end another episode
        begins, or in a dream it begins anew.
        """
        if self.ended[self.place]:
            return self.reset() if self.place == "world" or self.env is None else self.wake()
        with self.computing():
            return self.act(human)

    def act(self, human: np.ndarray | None) -> View:
        self.action = human if human is not None else self.decide()[0][0].float().cpu().numpy()
        self.decided = None
        if self.place == "world":
            self.step_world()
        with self.aside():
            self.dreamt = self.agent.model.imagine(self.dreamt, self.tensor(self.action), self.temperature)
            self.imagined_reward = float(self.agent.model.reward(self.dreamt))
        self.eyes_closed += 1
        self.step_number += 1
        if self.place == "world" and 0 < self.open_loop < self.eyes_closed:
            self.dreamt, self.eyes_closed = self.observed, 0
        earned = self.reward if self.place == "world" else self.imagined_reward
        self.rewards.append(earned)
        self.total[self.place] += earned
        view = self.view()
        if self.place == "dream" and view.alive < 0.5:
            self.ended["dream"] = "the dream ended"
        return view._replace(ended=self.ended[self.place])

    def step_world(self) -> None:
        assert self.env is not None
        self.ended["world"] = FAILED  # if the step raises: another episode is begun then
        given = int(self.action.argmax()) if self.agent.spec.discrete else self.action.copy()
        self.image, reward, terminated, truncated, _ = self.env.step(given)
        self.reward = float(reward)
        self.observe(self.action)
        self.ended["world"] = "the episode ended" if terminated else "time limit" if truncated else ""

    def decide(self) -> tuple[Tensor, ActorInfo]:
        """What the agent means to do now: the action (1, A) that it will take if nobody else does. Once a step."""
        if self.decided is None:
            agent = self.agent
            with self.computing():
                action, self.carry, info = agent.actor.act(self.here, self.carry, "evaluate", agent.generator)
            self.decided = action, info
            if len(info.plan[0]) and info.predicted_return.isfinite().all():
                self.predict(float(info.predicted_return), info.plan.shape[1])
        return self.decided

    @property
    def here(self) -> State:
        """The state in which is decided."""
        return self.observed if self.place == "world" else self.dreamt

    def set_horizon(self, horizon: int, actor: Any = None) -> View:
        """How far futures are followed. actor: a planner with that horizon, to take the place of the agent's."""
        self.horizon = horizon
        if actor is not None:
            self.agent = self.agent.with_actor(actor)
            self.carry = tree_map(lambda a: a.to(self.agent.device), actor.initial(1))
        return self.turn()

    # ---- looking ----

    def view(self) -> View:
        """What there is to see now."""
        model, critic = self.agent.model, critic_of(self.agent.actor)
        with self.computing(), self.aside():
            both = tree_map(lambda a, b: torch.cat([a, b]), self.observed, self.dreamt)
            reconstruction, dream = to_bytes(model.decode(both))
            alive = float(model.continues(self.dreamt))
            value = float(critic(self.here)) if critic else math.nan
        reward = self.reward if self.place == "world" else math.nan
        return View(
            self.step_number, self.image, reconstruction, dream, self.eyes_closed, self.action, reward,
            self.imagined_reward, self.total[self.place], value, alive, self.ended[self.place],
        )  # fmt: skip

    def futures(self) -> Futures:
        """What the agent considers now."""
        with self.computing():
            _, info = self.decide()
            with self.aside():
                found = imagine_futures(self.agent, self.here, self.carry, info, OTHERS, SHOWN, self.horizon)
        if not found.considered and np.isfinite(found.returns[0]):
            self.predict(float(found.returns[0]), found.horizon)
        return found

    def predict(self, expected: float, horizon: int) -> None:
        """Remember a prediction, to be compared with what is obtained; the newest one of a step counts."""
        self.predictions = [made for made in self.predictions if made[0] != len(self.rewards)][-1000:]
        self.predictions.append((len(self.rewards), expected, horizon))

    def outlooks(self) -> list[Outlook]:
        """The newest prediction, and the newest one whose horizon has passed beside what was obtained. None, if what is
        planned for is not the reward up to there.
        """
        objective = self.agent.actor.objective
        if isinstance(objective, RewardAndValue) or (objective is not None and not objective.in_reward_units):
            return []
        begun = self.step_number - len(self.rewards)
        found = [Outlook(begun + before, expected, math.nan) for before, expected, _ in self.predictions[-1:]]
        for before, expected, horizon in reversed(self.predictions):
            if before + horizon == len(self.rewards):
                found.append(Outlook(begun + before, expected, sum(self.rewards[before:])))
                break
        return found

    # ---- how it is computed ----

    def observe(self, action: np.ndarray, first: bool = False) -> None:
        device = self.agent.device
        image, begins = torch.from_numpy(self.image[None]).to(device), torch.tensor([first], device=device)
        self.observed = self.agent.model.observe(self.observed, self.tensor(action), image, begins)

    def tensor(self, action: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(action, np.float32)[None]).to(self.agent.device)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """As Agent.decide computes. Within another one it costs nothing: weights are packed once."""
        with torch.no_grad(), self.agent.autocast(), packed_weights():
            yield

    def aside(self) -> contextlib.AbstractContextManager[None]:
        """With random numbers of its own."""
        return self.agent.fork_rng(1_000_003 * self.seed + self.step_number)
