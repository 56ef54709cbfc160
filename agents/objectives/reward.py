"""The sum of rewards, as the model predicts them: what an agent maximises unless told otherwise."""

from torch import Tensor

from agents.base import Objective
from worldmodel.base import Spec, State, StrictConfig, WorldModel, merge_time


class Config(StrictConfig):
    name: str
    value_at_horizon: bool  # planners on a trained Dreamer: its critic says what lies beyond their horizon


def build(config: Config, model: WorldModel, spec: Spec) -> "Reward":
    return Reward()


class Reward(Objective):
    def reward(self, model: WorldModel, path: State, actions: Tensor) -> Tensor:
        return model.reward(merge_time(path)).view(actions.shape[:2])
