"""Mutants of what files hold: values of JSON or YAML, headers and numbers of tensors, arrays of chunks, recordings."""

import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.mutants_digests import sign_agent_or_store, sign_chunk, store

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
    sign_chunk(path, zipped(arrays, headers), arrays, rng)
    return f"arrays ({kind}) {name}"


def zipped(arrays: dict[str, np.ndarray], headers: dict[str, Any]) -> bytes:
    """An .npz, in which some arrays have a header that is not theirs."""
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
    return file.getvalue()
