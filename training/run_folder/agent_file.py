"""A trained agent as one file, to take home: weights, config and score, and nothing else of its run.

It is a safetensors file. Its tensors are named <model|actor>.<name>; its metadata holds, as JSON, the config, what
run.json says of the run, the counters and the evaluation, and a digest of all of the file's other bytes. It is never
read with pickle, and cannot name code: components are looked up as a run's are (SECURITY.md).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from training.configuration.legacy import upgrade_config, upgrade_tensors
from training.configuration.plain import cut, read_json
from training.run_folder.checkpoint import Checkpoint
from training.run_folder.run import Run, RunError
from training.run_folder.stored import check_info, check_state
from training.run_folder.tensors import read_tensors
from worldmodel import files
from worldmodel.replay.episodes import Chunk

SUFFIX = ".agent"
FORMAT = "worldmodel agent 1"
LARGEST = 256 << 20  # bytes that are read
LARGEST_HEADER = 1 << 20
PARTS = ("model", "actor")
KEPT = (  # of run.json
    "spec", "seed", "plugins", "device", "processor", "precision", "threads", "commit", "python", "versions", "command",
)  # fmt: skip
DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
BLANK = b"0" * 64  # stands where the digest will be while it is computed


class StoredAgent(NamedTuple):
    """What a file holds: what a run's newest checkpoint is to a run."""

    folder: Path  # named as the checkpoint that it was
    weights: dict[str, dict[str, Tensor]]  # by part
    state: dict[str, Any]  # counters
    evaluation: dict[str, Any]  # what evaluate.py said of it before it was exported
    chunks: tuple[Chunk, ...] = ()  # no episodes

    def tensors(self, name: str) -> dict[str, Tensor]:
        return self.weights[name]


def open_trained(place: Path) -> tuple[Run, Checkpoint | StoredAgent]:
    """A run and its newest checkpoint, or an agent's file. Errors: RunError."""
    if place.is_file() or place.suffix == SUFFIX:
        return read(place)
    run = Run.read(place)
    return run, run.newest()


# ---- writing ----


def serialised(
    run: Run, checkpoint: Checkpoint, tensors: Mapping[str, Mapping[str, Tensor]], evaluation: Mapping[str, Any]
) -> bytes:
    """The file's content. tensors: by part."""
    folders = {key: Path(run.config[key]).name for key in ("runs", "data", "model_from") if run.config.get(key)}
    info = {key: run.info[key] for key in KEPT if key in run.info}
    info["command"] = re.sub(r" \+*runs=\S+", "", str(info.get("command")))
    about = {
        "config": run.config | folders,  # where they lay is nobody's business
        "info": info,
        "checkpoint": checkpoint.folder.name,
        "counters": checkpoint.state["counters"],
        "evaluation": dict(evaluation),
    }
    flat = {
        f"{part}.{name}": value.detach().cpu().contiguous() for part in PARTS for name, value in tensors[part].items()
    }
    content = save(flat, {"format": FORMAT, "about": json.dumps(about), "sha256": BLANK.decode()})
    return DIGEST.sub(b'"sha256":"' + digest(content).encode() + b'"', content, count=1)


def digest(content: bytes) -> str:
    """Of all bytes but those of the digest itself."""
    return hashlib.sha256(DIGEST.sub(b'"sha256":"' + BLANK + b'"', content, count=1)).hexdigest()


def in_half(tensors: Mapping[str, Tensor], parameters: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in bf16; buffers as they are."""
    return {name: value.to(torch.bfloat16) if name in parameters else value for name, value in tensors.items()}


# ---- reading ----


def read(path: Path) -> tuple[Run, StoredAgent]:
    """As much of the run as there is, config, spec and what run.json said, its folder being the file; and the agent.
    Errors: RunError, before anything is built.
    """
    try:
        return parsed(path, checked_bytes(path))
    except RunError as error:
        raise RunError(f"{path}: {error}") from error
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # plain data of any form
        raise RunError(f"{path} is damaged: {type(error).__name__} {cut(str(error), 300)}") from error


def checked_bytes(path: Path) -> bytes:
    """The file's content, whose header, size and digest are right. Errors: RunError, OSError."""
    with files.opened(path, LARGEST, follow=True) as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= LARGEST_HEADER else b""
        found = DIGEST.search(header)
        if len(header) < length or not found or f'"{FORMAT}"'.encode() not in header:
            raise RunError(f"it is damaged, or not an agent's file (export.py writes them, {FORMAT!r})")
        file.seek(0)
        content = file.read(LARGEST)
    if digest(content) != found[1].decode():
        raise RunError("it is damaged: its content does not match its digest; get it anew")
    return content


def parsed(path: Path, content: bytes) -> tuple[Run, StoredAgent]:
    length = int.from_bytes(content[:8], "little")
    header = read_json(content[8 : 8 + length], LARGEST_HEADER)
    about = read_json(header["__metadata__"]["about"].encode(), LARGEST_HEADER)
    weights: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for name, value in read_tensors(content).items():
        part, _, rest = name.partition(".")
        weights[part][rest] = value.float() if value.dtype == torch.bfloat16 else value
    weights = {part: upgrade_tensors(part, tensors) for part, tensors in weights.items()}
    run = Run(path, upgrade_config(about["config"]), check_info(about["info"]))
    name = re.sub(r"[^\w-]", "_", str(about["checkpoint"]))
    state = check_state({"counters": about["counters"], "metrics_bytes": 0})
    return run, StoredAgent(Path(name), weights, state, dict(about["evaluation"]))
