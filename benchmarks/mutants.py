"""Mutants of files that a stranger may send: damaged bytes, other types and shapes, links, and what was signed again.

`mutate(folder, rng)` changes something in a folder that holds a run, recordings or an agent's file, and says what. Half
of what is changed inside a checkpoint gets its digest made right, so that its content is reached.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

DEEP: Any = 0
for _ in range(200):
    DEEP = [DEEP]
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 0.5, -0.5, 1e308, 1e-308, float("nan"), float("inf"), 10**6, 2**31, 2**63,
    10**30, "", "0", "x", "x" * 5000, "../../../etc/passwd", "\ud800", "\x1b[2J", "os.system", [], {}, [1], [[]],
    {"x": 1}, DEEP, ["x"] * 500, "null", "dmc", "gym", "cem", "reward",
]  # fmt: skip
TEXTS = [
    b"a: &a [*a]", b"[" * 20_000, b"{", b"", b"\xff\xfe\x00", b"- 1", b"null",
    b"x: !!python/object/apply:os.system [x]",
    b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n".encode() for i in range(1, 12)),
    b'{"a":' * 20_000, b"9" * 9999, b"0x" + b"f" * 9999,
]  # fmt: skip
TYPES = ["F32", "F64", "F16", "BF16", "I64", "I32", "U8", "BOOL", "C64", "F8_E4M3", "Q7", "", 3]


PICKLED = b"cos\nsystem\n(S'true'\ntR."  # would run when it is unpickled; the audit hook would see it


def mutate(folder: Path, rng: random.Random, outside: Path) -> str:
    """One change, now and then three. What was done."""
    done = []
    for _ in range(3 if rng.random() < 0.1 else 1):
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
        groups: dict[str, list[Path]] = {}  # of a kind, the newest last
        for file in files:
            if file.name != "lock" and "events" not in file.name:
                groups.setdefault(
                    "npz" if file.suffix == ".npz" else str(file.relative_to(folder).parts[0::2]), []
                ).append(file)
        if not groups:
            break
        group = groups[rng.choice(sorted(groups))]
        path = group[-1] if rng.random() < 0.7 and group[-1].suffix != ".npz" else rng.choice(group)
        change = rng.choice([*changes(path), replaced if rng.random() < 0.3 else bytes_changed])
        with contextlib.suppress(Exception):  # what was damaged before, so that it cannot be changed so, stays
            done.append(f"{path.relative_to(folder)}: {change(path, rng, outside)}")
    return "; ".join(done)


def changes(path: Path) -> list[Callable[[Path, random.Random, Path], str]]:
    """What can be done to a file besides damage, by its kind."""
    kinds: dict[str, list[Any]] = {
        ".json": [plain_changed] * 4, ".jsonl": [], ".yaml": [plain_changed] * 4, ".safetensors": [tensors_changed] * 4,
        ".agent": [tensors_changed, about_changed, about_changed], ".npz": [arrays_changed] * 4,
    }  # fmt: skip
    return kinds.get(path.suffix, [])


# ---- bytes ----


def bytes_changed(path: Path, rng: random.Random, outside: Path) -> str:
    content, kind = bytearray(path.read_bytes()), rng.randrange(7)
    at = rng.randrange(len(content) or 1)
    if kind == 0:
        del content[at:]
    elif kind == 1:
        content += rng.randbytes(rng.choice([1, 100]))
    elif kind == 2:
        content[at : at + 16] = bytes(16)
    elif kind == 3:
        content[at : at + 64] = rng.randbytes(64)
    elif kind == 4:
        del content[at : at + rng.choice([1, 8, 100])]
    else:
        for _ in range(rng.choice([1, 8])):
            if content:
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    store(path, bytes(content), rng)
    return f"bytes ({kind})"


def replaced(path: Path, rng: random.Random, outside: Path) -> str:
    """By a link, a pipe, a folder, another file, or nothing."""
    kind = rng.choice(["gone", "link", "link to a folder", "dangling link", "pipe", "folder", "sparse", "other"])
    other = rng.choice([one for one in sorted(path.parent.iterdir()) if one.is_file()]).read_bytes()
    path.unlink()
    if kind == "link":
        path.symlink_to(outside / "victim")
    elif kind == "link to a folder":
        path.symlink_to(outside)
    elif kind == "dangling link":
        path.symlink_to(outside / "nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 1 << 40)
    elif kind == "other":
        store(path, other, rng)
    return kind


# ---- JSON and YAML ----


def plain_changed(path: Path, rng: random.Random, outside: Path) -> str:
    if rng.random() < 0.1:
        store(path, rng.choice(TEXTS), rng)
        return "text"
    is_yaml = path.suffix == ".yaml"
    values = yaml.safe_load(path.read_bytes()) if is_yaml else json.loads(path.read_bytes())
    values, done = value_changed(values, rng)
    text = yaml.safe_dump(values, sort_keys=False) if is_yaml else json.dumps(values)
    store(path, text.encode("utf8", "surrogatepass"), rng, sign=path.name == "state.json")
    return done


def value_changed(values: Any, rng: random.Random) -> tuple[Any, str]:
    """One value replaced, one key removed, added or renamed."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []:
            places.append((node, key))
            walk(node[key])

    walk(values)
    if not places or rng.random() < 0.02:
        return rng.choice(ODD), "all of it"
    node, key = rng.choice(places)
    kind = rng.choice(["set", "set", "set", "number", "remove", "rename", "swap"])
    if kind == "remove":
        del node[key]
    elif kind == "rename" and isinstance(node, dict):
        node[rng.choice([f"{key}x", str(key).upper(), "", "name"])] = node.pop(key)
    elif kind == "swap":
        other, there = rng.choice(places)
        node[key], other[there] = json.loads(json.dumps([other[there], node[key]]))
    elif kind == "number" and isinstance(node[key], int | float):
        node[key] = rng.choice(
            [node[key] + 1, node[key] * 2, -node[key], node[key] * 1000, str(node[key]), [node[key]]]
        )
    else:
        node[key] = rng.choice(ODD)
    return values, f"{kind} {str(key)[:40]}"


# ---- tensors ----


def tensors_changed(path: Path, rng: random.Random, outside: Path) -> str:
    """In the header, or in the numbers themselves."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    names = [name for name in header if name != "__metadata__"]
    kind = rng.choice(["numbers", "numbers", "dtype", "shape", "rename", "drop", "add", "offsets", "header", "length"])
    if not names:
        return "nothing"
    name = rng.choice(names)
    begin, end = header[name]["data_offsets"]
    if kind == "numbers":
        many = (end - begin) // 4
        value = rng.choice([np.nan, np.inf, -np.inf, 1e38, -1.0, 0.0, 1e-45, 7.0])
        if many:
            array = np.frombuffer(body, np.float32, many, begin)
            array[:: rng.choice([1, 1, many])] = value
        elif end > begin:
            body[begin] ^= 0xFF
    elif kind == "dtype":
        header[name]["dtype"] = rng.choice(TYPES)
    elif kind == "shape":
        own = header[name]["shape"]
        odd: list[Any] = [[], [1], [0], [2**40], [-1], own[::-1], "x", [10**30], [0, 2**62], [*own, 1]]
        header[name]["shape"] = rng.choice(odd)
    elif kind == "rename":
        header[rng.choice([name + "x", "", "x" * 1000, "a/b/c", "../x", "rng/cpu"])] = header.pop(name)
    elif kind == "drop":  # with its bytes, so that the file is sound
        return repacked(path, {key: (header[key], body) for key in names if key != name}, header, rng)
    elif kind == "add":
        number = rng.choice([1, 1, 1000])
        more = {f"more{i}": ({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, b"") for i in range(number)}
        return repacked(path, {key: (header[key], body) for key in names} | more, header, rng)
    elif kind == "offsets":
        header[name]["data_offsets"] = rng.choice(
            [[begin, end + 4], [0, 0], [end, begin], [-4, 4], [0, 2**63], "x", [begin]]
        )
    elif kind == "header":
        header, _ = value_changed(header, rng)
    written = json.dumps(header).encode()
    size = rng.choice([2**63, 0, 10**9, length + 1]) if kind == "length" else len(written)
    sign_agent_or_store(path, size.to_bytes(8, "little") + written + bytes(body), rng)
    return f"tensors: {kind} {name[:60]}"


def repacked(path: Path, entries: dict[str, Any], header: dict[str, Any], rng: random.Random) -> str:
    """A sound file of some entries."""
    out, body = {key: value for key, value in header.items() if key == "__metadata__"}, b""
    for key, (entry, source) in entries.items():
        part = bytes(source[slice(*entry["data_offsets"])])
        out[key] = entry | {"data_offsets": [len(body), len(body) + len(part)]}
        body += part
    written = json.dumps(out).encode()
    sign_agent_or_store(path, len(written).to_bytes(8, "little") + written + body, rng)
    return "tensors: others"


def about_changed(path: Path, rng: random.Random, outside: Path) -> str:
    """What an agent's file says of itself."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    about, done = value_changed(json.loads(header["__metadata__"]["about"]), rng)
    header["__metadata__"]["about"] = json.dumps(about)
    written = json.dumps(header, separators=(",", ":")).encode()
    sign_agent_or_store(path, len(written).to_bytes(8, "little") + written + content[8 + length :], rng)
    return f"about: {done}"


# ---- arrays ----


def arrays_changed(path: Path, rng: random.Random, outside: Path) -> str:
    """Of a replay's chunk or a recording."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    name, kind = rng.choice(list(arrays)), rng.randrange(12)
    array, headers = arrays[name], {}
    if kind == 0:
        arrays[name] = array.astype(rng.choice(["f8", "i8", "u1", "?", "c8", "f2", ">f4", "U3", "S1", "M8[s]"]))
    elif kind == 1:
        arrays[name] = rng.choice(
            [array[:1], array[1:], array[:, None], array.ravel(), array[:0], array.T, array[None]]
        )
    elif kind == 2 and array.dtype.kind == "f":
        arrays[name] = array.copy()
        arrays[name].flat[rng.randrange(array.size)] = rng.choice([np.nan, np.inf, 1e30, -1, 1.5])
    elif kind == 3 and array.dtype.kind == "b":
        arrays[name] = array.copy()
        arrays[name][rng.randrange(len(array))] ^= True
    elif kind == 4:
        del arrays[name]
    elif kind == 5:
        arrays["x" * rng.choice([1, 1000])] = array
    elif kind == 6:
        headers[name] = {"descr": "|O", "fortran_order": False, "shape": (2,)}
    elif kind == 7:
        headers[name] = {
            "descr": array.dtype.str,
            "fortran_order": False,
            "shape": rng.choice([(1 << 50,), (-1,), (10**30,)]),
        }
    elif kind == 8:
        headers[name] = rng.choice([{"descr": "|O", "fortran_order": False, "shape": array.shape}, {}, {"descr": 3}])
    elif kind == 9:
        arrays["first"] = np.arange(len(arrays.get("reward", array))) % rng.choice([2, 3, 100]) == 0
    elif kind == 10:
        arrays = {key: np.concatenate([value, value]) for key, value in arrays.items()}
    else:
        arrays[name] = np.zeros((10**5, *array.shape[1:]), array.dtype)  # a bomb
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in arrays.items():
            part = io.BytesIO()
            if key in headers:
                part.write(
                    b"\x93NUMPY\x01\x00" + len(str(headers[key])).to_bytes(2, "little") + str(headers[key]).encode()
                )
                part.write(PICKLED if "|O" in str(headers[key]) else value.tobytes())
            else:
                np.lib.format.write_array(part, value, allow_pickle=False)
            archive.writestr(f"{key}.npy", part.getvalue())
    sign_chunk(path, file.getvalue(), arrays, rng)
    return f"arrays ({kind}) {name}"


# ---- digests that are made right ----


def store(path: Path, content: bytes, rng: random.Random, sign: bool = False) -> None:
    """Write a file; half of the times, in a checkpoint, with its digest."""
    path.write_bytes(content)
    manifest = path.parent / "MANIFEST.json"
    if path != manifest and manifest.is_file() and (sign or rng.random() < 0.5):
        listed = json.loads(manifest.read_bytes())
        listed["files"][path.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest.write_text(json.dumps(listed))


def sign_agent_or_store(path: Path, content: bytes, rng: random.Random) -> None:
    from training.run_folder import agent_file

    if path.suffix == agent_file.SUFFIX:
        digest = agent_file.digest(content).encode()
        content = agent_file.DIGEST.sub(b'"sha256":"' + digest + b'"', content, count=1)
    store(path, content, rng, sign=rng.random() < 0.8)


def sign_chunk(path: Path, content: bytes, arrays: dict[str, np.ndarray], rng: random.Random) -> None:
    """A chunk under its right name, in all manifests."""
    path.write_bytes(content)
    checkpoints = path.parent.parent / "checkpoints"
    if not checkpoints.is_dir() or rng.random() < 0.2:
        return
    from worldmodel.replay.episodes import Episode

    fields = [arrays.get(name, np.zeros(0)) for name in Episode._fields]
    digest = Episode(*fields).digest()
    rows = len(arrays["reward"]) if "reward" in arrays and arrays["reward"].ndim else 1
    shutil.move(path, path.with_name(f"{digest}.npz"))
    for manifest in checkpoints.glob("*/MANIFEST.json"):
        listed = json.loads(manifest.read_bytes())
        listed["chunks"] = [
            [digest, rows, *place] if old == path.stem else [old, many, *place]
            for old, many, *place in listed["chunks"]
        ]
        manifest.write_text(json.dumps(listed))
