"""The DOT world: its equations, its images, and that looking ahead pays."""

import numpy as np
import pytest

from envs.suites import dot

STILL = np.array([[0.5, -0.5, 0.0, 0.0]])


def config() -> dot.Config:
    return dot.Config(name="dot", size=(32, 32), gray=True, action_repeat=1, time_limit=50, num_envs=1,
                      vectorization_mode="sync", timeout=10)  # fmt: skip


def test_one_step_by_hand() -> None:
    state, reward = dot.step(np.array([[0.1, 0.2, 0.1, -0.1]]), np.array([[1.0, -0.5]]))
    assert np.allclose(state, [[0.215, 0.095, 0.115, -0.105]])  # 0.95 * 0.1 + 0.02, 0.95 * -0.1 - 0.01
    assert np.allclose(reward, -np.hypot(0.215, 0.095) / np.sqrt(2))


def test_a_wall_stops_the_dot_on_its_axis_only() -> None:
    state, _ = dot.step(np.array([[0.99, 0.0, 0.2, 0.1]]), np.zeros((1, 2)))
    assert np.allclose(state, [[1.0, 0.095, 0.0, 0.095]])


def test_rewards_are_zero_at_the_goal_and_minus_one_in_a_corner() -> None:
    _, reward = dot.step(np.array([[0, 0, 0, 0], [1, 1, 0, 0], [-1, 1, 0, 0.0]]), np.zeros((3, 2)))
    assert np.allclose(reward, [0, -1, -1])


def test_forces_are_clipped() -> None:
    wild, tame = (dot.step(STILL, np.array([[force, -force]]))[0] for force in (9, 1))
    assert (wild == tame).all()


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (64, 64)])
def test_the_image_of_a_known_state(size: tuple[int, int]) -> None:
    image = dot.draw(STILL, size)[0, 0].astype(float)
    assert dot.draw(STILL, size, gray=False).shape == (1, 3, *size)
    rows, columns = ((2 * np.arange(side) + 1) / side - 1 for side in size)
    centre = (image.sum(0) @ columns / image.sum(), image.sum(1) @ rows / image.sum())
    assert np.allclose(centre, [0.5, -0.5], atol=0.01)  # x to the right, y down: the blob is at the upper right
    assert image.max() > 200 and np.isclose(image.sum() / 255, 2 * np.pi * 0.15**2 * size[0] * size[1] / 4, rtol=0.02)


def test_velocity_is_not_visible() -> None:
    moving = STILL + [0, 0, 0.1, -0.1]
    assert (dot.draw(STILL, (32, 32)) == dot.draw(moving, (32, 32))).all()
    after = [dot.draw(dot.step(state, np.zeros((1, 2)))[0], (32, 32)) for state in (STILL, moving)]
    assert (after[0] != after[1]).any()


def test_many_states_are_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    state, action = dot.reset(rng, 20), rng.uniform(-1, 1, (20, 2))
    together, rewards = dot.step(state, action)
    images = dot.draw(together, (16, 16))
    for i in range(20):
        one, reward = dot.step(state[i : i + 1], action[i : i + 1])
        assert np.allclose(one[0], together[i]) and np.isclose(reward[0], rewards[i])
        assert (dot.draw(one, (16, 16))[0] == images[i]).all()


def test_the_environment_is_the_functions() -> None:
    env = dot.build(config())
    image, _ = env.reset(seed=3)
    state = dot.reset(np.random.default_rng(3), 1)
    assert np.allclose(env.unwrapped.state, state[0]) and (image == dot.draw(state, (32, 32))[0]).all()
    for step in range(50):
        action = env.action_space.sample()
        image, reward, terminated, truncated, _ = env.step(action)
        state, expected = dot.step(state, action[None])
        assert np.allclose(env.unwrapped.state, state[0], atol=1e-6) and np.isclose(reward, expected[0], atol=1e-6)
        assert (image == dot.draw(env.unwrapped.state[None], (32, 32))[0]).all()
        assert (terminated, truncated) == (False, step == 49)


def plan(state: np.ndarray, rng: np.random.Generator, horizon: int) -> np.ndarray:
    """The cross-entropy method on the true simulator: 5 rounds of 100 candidates, the best 10 stay."""
    mean, std = np.zeros((horizon, 2)), np.ones((horizon, 2))
    for _ in range(5):
        actions = np.clip(mean + std * rng.standard_normal((100, horizon, 2)), -1, 1)
        states, score = np.repeat(state, 100, axis=0), np.zeros(100)
        for t in range(horizon):
            states, reward = dot.step(states, actions[:, t])
            score += reward
        best = actions[np.argsort(score)[-10:]]
        mean, std = best.mean(0), best.std(0)
    return mean[0]


def test_planning_pays() -> None:
    totals = {"random": 0.0, "greedy": 0.0, "plan": 0.0}
    for name in totals:
        for episode in range(5):
            rng = np.random.default_rng(episode)
            state = dot.reset(rng, 1)
            for _ in range(50):
                if name == "random":
                    action = rng.uniform(-1, 1, 2)
                else:
                    action = -np.sign(state[0, :2]) if name == "greedy" else plan(state, rng, 10)
                state, reward = dot.step(state, action[None])
                totals[name] += reward[0] / 5
    assert totals["plan"] > 0.3 * totals["random"]  # returns are negative: a third of the distance
    assert totals["plan"] > 0.6 * totals["greedy"]  # full force towards the goal overshoots
