"""Recorded episodes: a folder of .npz or HDF5 files, or a Minari dataset, in; Spec and Episodes out, to learn a world
model without an environment. docs/recordings.md lists the layouts.

A file holds one episode of T rows or several, in arrays by the names in scan.py (others are ignored; nothing is ever
unpickled). Which row an action belongs to is in layouts.py; the images' forms are in images.py. What comes out is in
our time (worldmodel/base.py): action[t] led to image[t], and an episode's first row has neither action nor reward.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Protocol

from worldmodel.base import Spec
from worldmodel.replay import evidence
from worldmodel.replay.align import File, align, lengths, one_hot
from worldmodel.replay.episodes import Episode
from worldmodel.replay.folder import data_files, minari_data
from worldmodel.replay.images import Form
from worldmodel.replay.layouts import LAYOUTS, LED, Ambiguous, Layout, detect, joined
from worldmodel.replay.minari_dataset import MinariEpisodes
from worldmodel.replay.npz import RecordedError
from worldmodel.replay.pictures import Kind, image_forms, kind_of, pictures
from worldmodel.replay.scan import Raw, join, scan, unlike
from worldmodel.replay.storage import available_memory

SHARE = 4  # what is read at once may take a 1/SHARE of the memory that is free
SHOWN = 10  # files that an error lists


class Options(NamedTuple):
    """What a user may say about recordings."""

    layout: str | None = None  # a name of layouts.py; None: by the marks that a project leaves
    size: Sequence[int] | None = None  # (Y, X); None: as recorded
    gray: bool = False


AS_RECORDED = Options()


class Recordings(Protocol):
    """Recorded episodes, to be iterated as often as wanted."""

    spec: Spec
    lengths: list[int]  # N + 1 of each episode
    layout: Layout
    found: list[str]  # what was found and how it is read, for people

    def __iter__(self) -> Iterator[Episode]: ...


class Recorded:
    """Episodes of files, in the order of their names."""

    def __init__(
        self, spec: Spec, files: list[File], layout: Layout, forms: dict[Kind, Form], limit: int, found: list[str]
    ) -> None:
        self.spec, self.files, self.layout, self.forms, self.limit = spec, files, layout, forms, limit
        self.lengths = [rows for file in files for rows in lengths(file.first) if rows > 1]
        self.found = found

    def __iter__(self) -> Iterator[Episode]:
        """One episode is unpacked at a time. Errors: RecordedError if images are damaged, or not what they were."""
        for file in self.files:
            at, form = 0, self.forms[kind_of(file.raw)]
            with closing(pictures(file.raw, lengths(file.first), self.limit, form)) as parts:
                for image in parts:
                    part = slice(at, at := at + len(image))
                    if len(image) > 1:  # else it is a picture without an action, at a cut
                        action = one_hot(file.action[part], self.spec)
                        yield Episode(image, action, file.reward[part], file.terminal[part])


def read(folder: Path, options: Options = AS_RECORDED) -> Recordings:
    """Check a folder, tell its layout and find its Spec. Only the headers of images are read, and a few rows, so that
    this takes little time or memory.

    Actions are discrete if they are integers, or one-hot in all files. Errors: RecordedError, with all bad files;
    Ambiguous, if the layout is not certain.
    """
    limit = available_memory() // SHARE
    dataset = minari_data(folder)
    if dataset is not None:
        if options.layout not in (None, "minari"):
            raise RecordedError(f"{dataset} is a Minari dataset: leave data_layout={options.layout} out")
        return MinariEpisodes(dataset, limit, options.size, options.gray)
    paths = data_files(folder)
    raws, wrong = scanned(paths, limit)
    report(wrong, len(paths), folder)
    try:
        layout, why = (LAYOUTS[options.layout], "data_layout says so") if options.layout else detect(raws)
    except Ambiguous as error:
        raise RecordedError(f"{folder}: {error}{seen(raws, folder, limit, error.readings)}") from error
    if layout.name == "minari":
        raise RecordedError(f"{folder} is no Minari dataset: one has a metadata.json beside its main_data.hdf5")
    return from_files(raws, folder, limit, layout, why, options)


def from_files(raws: Sequence[Raw], folder: Path, limit: int, layout: Layout, why: str, options: Options) -> "Recorded":
    """Files in a known layout. Errors: RecordedError, with all files that are wrong or unlike the others."""
    files, wrong = aligned(raws, layout)
    forms, unfit = image_forms(raws, limit, options.size, options.gray)
    report({path: "; ".join(said[path] for said in (unfit, wrong) if path in said) for path in unfit | wrong},
           sum(len(raw.paths) for raw in raws), folder)  # fmt: skip
    integers = files[0].action.ndim == 1
    count = 1 + max(int(file.action.max()) for file in files) if integers else files[0].action.shape[1]
    spec = Spec(next(iter(forms.values())).shape, count, integers or all(file.onehot for file in files))
    return Recorded(spec, files, layout, forms, limit, describe(files, layout, why, forms, folder))


def seen(raws: Sequence[Raw], folder: Path, limit: int, readings: Sequence[Layout]) -> str:
    """What the pictures say about two readings; nothing, if there are too few."""
    try:
        told = evidence.gather(from_files(raws, folder, limit, LAYOUTS[LED], "", AS_RECORDED))
    except RecordedError:
        return ""
    if told is None:
        return ""
    speaks = [reading.name for reading in readings if reading.action == told.verdict]
    return f"\n{told}: " + (f"that speaks for {speaks[0]}" if speaks else "that leaves it open")


def scanned(paths: Sequence[Path], limit: int) -> tuple[list[Raw], dict[Path, str]]:
    """What the files hold, and what is wrong with those that cannot be used."""
    single: dict[Path, Raw] = {}
    wrong = {}
    for path in paths:
        try:
            single[path] = scan(path, limit)
        except RecordedError as error:
            wrong[path] = str(error)
    raws = []
    for chain in joined(list(single)):
        try:
            raws.append(join([single[path] for path in chain]))
        except RecordedError as error:
            wrong[chain[0]] = str(error)
    return raws, wrong


def aligned(raws: Sequence[Raw], layout: Layout) -> tuple[list[File], dict[Path, str]]:
    """In our time; and what is wrong with files, or unlike in most of them."""
    files, wrong = [], {}
    longest = max(max(lengths(raw.first)) for raw in raws)
    for raw in raws:
        try:
            files.append(align(raw, layout, longest))
        except RecordedError as error:
            wrong[raw.paths[0]] = str(error)
    good = [file.raw for file in files]
    wrong |= unlike(good, "actions", [raw.form for raw in good])
    parts = ["rewards", "no rewards"], ["terminals", "no terminals"]
    given = [[parts[0][raw.reward is None], parts[1][raw.terminal is None]] for raw in good]
    return files, wrong | unlike(good, "arrays", [" and ".join(names) for names in given])


def report(wrong: dict[Path, str], count: int, folder: Path) -> None:
    """Errors: RecordedError, if anything is wrong."""
    if not wrong:
        return
    lines = [f"{len(wrong)} of {count} files in {folder} cannot be used:"]
    names = {path: path.name if path == folder else path.relative_to(folder) for path in sorted(wrong)[:SHOWN]}
    lines += [f"  {names[path]}: {wrong[path]}" for path in names]
    lines += [f"  ... and {len(wrong) - SHOWN} more"] * (len(wrong) > SHOWN)
    raise RecordedError("\n".join(lines))


def describe(files: Sequence[File], layout: Layout, why: str, forms: dict[Kind, Form], folder: Path) -> list[str]:
    """What was found and how it is read: the layout with its reason, then what was left out or made."""
    lines = [f"{folder} is read as {layout.name}, because {why}: {layout.meaning}"]
    others = sorted({name for file in files for name in file.raw.others})
    if others:
        lines.append(
            f"the images are '{files[0].raw.image}'; {', '.join(others)} could be images, too, and are not read"
        )
    if not any(file.raw.reward is not None for file in files):
        lines.append("there are no rewards: all are 0")
    episodes = sum(file.raw.episodes for file in files)
    if layout.outcome == "after_action" and all(len(file.raw.action) == file.raw.rows for file in files):
        lines.append(f"the last action of {episodes} episodes has no image after it and is left out")
    unseen = sum(file.unseen for file in files)
    if unseen:
        lines.append(f"{unseen} terminals came after an episode's last image, and cannot be learned")
    if any(file.raw.done for file in files):
        lines.append("`done` tells no death from a time limit: it is taken as terminal but in the longest episodes")
    dropped = sum(file.dropped for file in files) if layout.action == "led" else 0
    if dropped:
        lines.append(f"{dropped} episodes begin with an action or a reward that led to their first image: left out")
    pieces = sum(file.raw.amid[0] for file in files)
    if pieces:
        lines.append(f"{pieces} files begin amid an episode: their first rows begin a new one")
    return lines + [form.note for form in forms.values() if form.note]
