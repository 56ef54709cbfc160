"""Tensors from a file that others may have written: its header is looked at before anything is made of it."""

from safetensors.torch import load
from torch import Tensor

LARGEST_HEADER = 16 << 20  # bytes; a tensor takes about a hundred
MOST_TENSORS = 50_000


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """The content of a safetensors file. Errors: ValueError."""
    length = int.from_bytes(content[:8], "little")
    if not 0 < length <= min(LARGEST_HEADER, len(content) - 8):
        raise ValueError(f"its header has {length:,} bytes: it is damaged, or no safetensors file")
    if content.count(b'"dtype"', 8, 8 + length) > MOST_TENSORS:
        raise ValueError(f"it holds more than {MOST_TENSORS:,} tensors")
    try:
        return load(content)
    except Exception as error:  # types that torch has not, sizes that do not fit: each raises something else
        raise ValueError(f"it is damaged, or no safetensors file: {str(error)[:200]}") from error
