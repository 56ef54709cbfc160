"""Draw the next batch while the one before it is in use."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetched(draw: Callable[[int], T], numbers: Iterable[int], ahead: bool = True) -> Generator[T, None, None]:
    """draw(n) for every n, in order; if `ahead`, in one thread that is always one n ahead, and never beyond the last.

    draw: must depend on n alone, and nobody may change what it reads before the iterator is at its end or closed.
    Errors: those of draw, in the caller's thread, when their turn comes. To leave early, close it: `with
    contextlib.closing(prefetched(...)) as batches`; that waits for the draw which is under way.
    """
    if not ahead:
        yield from map(draw, numbers)
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as thread:
        following: Future[T] | None = None
        for number in numbers:
            current, following = following, thread.submit(draw, number)
            if current:
                yield current.result()
        if following:
            yield following.result()
