"""YAML and JSON from strangers: what would take memory or time is refused before anything is built, in a short line."""

import json
from typing import Any

import pytest
import yaml

from training.configuration import plain
from training.configuration.plain import read_json, read_yaml, shown
from training.run_folder.stored import check_info, check_state

LINE = "a{}: &a{} [" + ", ".join(["*a{}"] * 9) + "]\n"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(LINE.format(i, i, *[i - 1] * 9) for i in range(1, 12))
MAPPINGS = "a0: &a0 {x: 1, y: 2}\n" + "".join(f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}\n" for i in range(1, 40))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (BOMB, "more than 20,000 values, its aliases written out"),
        (MAPPINGS, "more than 20,000 values, its aliases written out"),
        (MERGES, "more than 20,000 values, its aliases written out"),
        ("a: &a [1, *a]", "an alias stands for what it is in"),
        ("[" * 100_000, "nested too deeply"),
        ("? " * 100_000, "nested too deeply"),
        (f"a: {'x' * (1 << 18)}", "a config has at most 262,144"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: !!bool x", "'x'"),
        ("a: !!int ''", "index out of range"),
        ("a: !!timestamp x", "groupdict"),
        (f"a: {'9' * 5000}", "4300 digits"),
    ],
)
def test_yaml_that_would_not_end_well_is_refused(content: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        read_yaml(content.encode())
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_yaml_of_ours_is_read_with_its_aliases() -> None:
    shared = [1, 2.5, None, True, "text"]
    values = {"one": shared, "two": shared, "three": {"deep": {"er": [shared]}}}
    written = yaml.safe_dump(values)
    assert "*id001" in written and read_yaml(written.encode()) == values
    assert read_yaml(b"") is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 60_000, "more than 262,144"),
        (b"[0" + b",0" * 4_000_001 + b"]", "more than 262,144"),
        (b"9" * 5000, "4300 digits"),
        (b"\xff", "decode"),
        (b"{", "Expecting"),
    ],
    ids=range(6),
)
def test_json_that_would_not_end_well_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_json(content)
    if len(content) > plain.LARGEST_CONFIG:
        with pytest.raises(ValueError, match=r"nested|values"):
            read_json(content, 1 << 30)


def test_what_is_shown_is_cut_before_it_is_written_out() -> None:
    bomb: Any = "x"
    for _ in range(40):
        bomb = [bomb] * 9  # 9^40 letters, if they were written out
    endless: dict[str, Any] = {}
    endless["self"] = endless
    for value in (bomb, {"a": bomb}, endless, 10**10_000, -(10**10_000), "x" * 10**6, {1: {2: {3: bomb}}}):
        assert len(shown(value)) <= plain.LONGEST_SHOWN
    assert shown({"a": [1, 2.5, "x"]}) == "{'a': [1, 2.5, 'x']}"


SPEC = {"image_shape": [1, 4, 4], "action_dim": 2, "discrete": False}


@pytest.mark.parametrize("spec", [SPEC, {"image": [1, 4, 4], "action": 2, "discrete": False}])
def test_run_json_of_any_version_is_read(spec: dict[str, Any]) -> None:
    info = {"spec": spec, "seed": 0, "given_rows": 7, "plugins": ["a_b.c"], "later": {"x": 1}}
    assert check_info(info) == {**info, "spec": SPEC}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spec": None}, "spec: "),
        ({"spec": SPEC | {"image_shape": [1, 4]}}, "spec.image_shape"),
        ({"spec": SPEC | {"image_shape": [1, 4, 10**9]}}, "spec.image_shape.2"),
        ({"spec": SPEC | {"image_shape": "1x4x4"}}, "spec.image_shape"),
        ({"spec": SPEC | {"action_dim": True}}, "spec.action_dim"),
        ({"spec": SPEC | {"action_dim": 2.0}}, "spec.action_dim"),
        ({"spec": SPEC | {"discrete": 0}}, "spec.discrete"),
        ({"spec": SPEC | {"more": 0}}, "spec.more"),
        ({"plugins": "os"}, "plugins"),
        ({"plugins": ["os; rm"]}, r"plugins\.0"),
        ({"plugins": ["\x1b[2J"]}, r"plugins\.0"),
        ({"threads": 10**6}, "threads"),
        ({"initial_rows": -1}, "initial_rows"),
        ({"initial_rows": 1e300}, "initial_rows"),
    ],
    ids=range(14),
)
def test_run_json_of_other_types_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_info({"spec": SPEC} | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"counters": []}, "counters"),
        ({"counters": {"env_steps": "3"}}, "counters.env_steps"),
        ({"counters": {"env_steps": -3}}, "counters.env_steps"),
        ({"counters": {"saved": 10**40}}, "counters.last_save_collected"),
        ({"metrics_bytes": None}, "metrics_bytes"),
        ({"sums": [1]}, "sums"),
        ({"sums": {"loss": "x"}}, "sums.loss"),
        ({"collector": {"started": 1, "numbers": [0] * 10_000}}, "collector.numbers"),
        ({"collector": {"started": 1, "numbers": ["0"]}}, r"collector.numbers\.0"),
    ],
    ids=range(9),
)
def test_state_json_of_other_types_is_refused(changes: dict[str, Any], said: str) -> None:
    state = {"counters": {"env_steps": 3}, "metrics_bytes": 0, "sums": {"loss": 1.0}}
    assert check_state(json.loads(json.dumps(state))) == state
    with pytest.raises(ValueError, match=said):
        check_state(state | changes)
