"""Films of a trained run, by evaluate.py --video: episodes as the renderer draws them, and open-loop dreams."""

from collections.abc import Iterator, Sequence

import numpy as np

import envs
from agents.agent import Agent
from training import evaluation
from training.collecting.rollout import EpisodeResult
from training.reporting import films
from training.reporting.progress import console
from training.run_folder.trained import TrainedRun
from worldmodel import files
from worldmodel.replay.episodes import Episode

VIDEOS = 3  # episodes
DRAWN = 256  # pixels of the shorter side that an environment is asked to draw
LARGEST = 1024  # of the longer side
PANE = 512  # and of the film: half of its colours is lost to compression (4:2:0), so pixels are doubled
FRAMES = 1000  # of an animated PNG, where no MP4 can be written


class NotRepeated(Exception):
    """The environment does not give the same episode again for the same seed and actions."""


def write(trained: TrainedRun, agent: Agent, results: Sequence[EpisodeResult]) -> None:
    """videos/ in the run's folder: episode-<n>.mp4 of the first few, and dream.png."""
    folder = trained.results_folder() / "videos"
    files.make_folder(folder)
    contents = {f"episode-{number}": film(trained, number, result) for number, result in enumerate(results[:VIDEOS])}
    dream, _ = evaluation.dreams(agent, [result.episode for result in results], trained.seed)
    contents["dream"] = films.png(films.dream_frames(dream)), ".png"
    for name, (content, suffix) in contents.items():
        for other in {".gif", ".png", ".mp4"} - {suffix}:
            files.remove(folder / f"{name}{other}")  # of an earlier evaluation
        files.write(folder / f"{name}{suffix}", content)
    console.print(f"videos are in {folder}")


def film(trained: TrainedRun, number: int, result: EpisodeResult) -> tuple[bytes, str]:
    """An evaluated episode as a film, and its suffix: from the renderer if it draws larger than what the agent sees."""
    episode = result.episode
    config, content = trained.agent.env, None
    larger = drawn_larger(config)
    images = iter(episode.image) if larger == config else replayed(larger, trained.episode_seed(number), episode)
    try:
        content = films.mp4(films.episode_frames(images, episode.reward, PANE))
    except (NotRepeated, envs.EnvError) as error:
        console.print(f"episode {number} is shown as the agent saw it: {error}")
        content = films.mp4(films.episode_frames(iter(episode.image), episode.reward, PANE))
    if content is not None:
        return content, ".mp4"
    every = -(-len(episode.reward) // FRAMES)
    return films.png(films.episode_frames(iter(episode.image), episode.reward, every=every)), ".png"


def drawn_larger(config: envs.Config) -> envs.Config:
    """The same environment with images in colour, at least DRAWN pixels large."""
    factor = max(1, min(-(-DRAWN // min(config.size)), LARGEST // max(config.size)))
    size = tuple(side * factor for side in config.size)
    return config.model_copy(update={"size": size, "gray": False, "num_envs": 1})


def replayed(config: envs.Config, seed: int, episode: Episode) -> Iterator[np.ndarray]:
    """The images (3, Y, X) of an episode, played once more in this environment. Errors: NotRepeated; envs.EnvError."""
    vector = envs.vector(config)
    try:
        yield vector.reset({0: seed})[0]
        for action, reward in zip(episode.action[1:], episode.reward[1:], strict=True):
            image, again, *_ = vector.step(action[None])
            if not np.isclose(again[0], reward, rtol=1e-5, atol=1e-6):
                raise NotRepeated("the environment does not repeat itself for the same seed and actions")
            yield image[0]
    finally:
        vector.close()
