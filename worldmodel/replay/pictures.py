"""The images of recorded files: how they lie there, and one episode's after the other's."""

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import numpy as np

from worldmodel.replay import images
from worldmodel.replay.align import lengths
from worldmodel.replay.images import Form
from worldmodel.replay.npz import RecordedError, too_large
from worldmodel.replay.scan import Raw, opened, unlike

PEEK = 64  # rows from which the form of images is told
Kind: TypeAlias = tuple[tuple[int, ...], str]  # of images as they lie in files: shape of a row, and type


def kind_of(raw: Raw) -> Kind:
    return raw.shape[1:], str(raw.kind)


def image_forms(
    raws: Sequence[Raw], limit: int, size: Sequence[int] | None, gray: bool
) -> tuple[dict[Kind, Form], dict[Path, str]]:
    """How images become ours, by how they lie in files; and what is wrong with files, or unlike in most of them."""
    forms: dict[Kind, Form | None] = {}
    wrong = {}
    for raw in raws:
        kind, longest = kind_of(raw), max(lengths(raw.first))
        try:
            much = longest * math.prod(raw.shape[1:]) * raw.kind.itemsize
            if much > limit:
                raise too_large(raw.image, much, limit)
            if kind not in forms:
                forms[kind] = None
                with closing(pictures(raw, [min(PEEK, lengths(raw.first)[0])], limit)) as peeked:
                    some = next(peeked)
                forms[kind] = images.form(some, size, gray)
        except RecordedError as error:
            wrong[raw.paths[0]] = str(error).partition(" cannot be used: ")[2] or str(error)
    known = {kind: form for kind, form in forms.items() if form is not None}
    fit = [raw for raw in raws if kind_of(raw) in known]
    other = unlike(fit, "images", [str(known[kind_of(raw)].shape) for raw in fit])
    hint = "; data_size=[Y,X] makes them so, and data_gray=true"
    return known, wrong | {path: said + hint for path, said in other.items()}


def pictures(raw: Raw, counts: Sequence[int], limit: int, form: Form | None = None) -> Generator[np.ndarray]:
    """The images of one episode after the other, of a file or of files that continue each other. form: None gives them
    as they lie there. Errors: RecordedError.
    """
    parts: list[np.ndarray] = []
    left = list(reversed(counts))  # rows of episodes that are not complete
    for path, height in zip(raw.paths, raw.heights):
        try:
            with opened(path) as arrays:
                if arrays.header(raw.image) != ((height, *raw.shape[1:]), raw.kind):
                    raise RecordedError("its images changed while it was read")
                with closing(arrays.rows(raw.image, limit)) as reader:
                    while height and left:
                        taken = min(height, left[-1])
                        rows = reader.read(taken)
                        parts.append(rows if form is None else images.convert(rows, form))
                        height, left[-1] = height - taken, left[-1] - taken
                        if not left[-1]:
                            left.pop()
                            yield parts[0] if len(parts) == 1 else np.concatenate(parts)
                            parts = []
        except RecordedError as error:
            raise RecordedError(f"{path} cannot be used: {error}") from error
