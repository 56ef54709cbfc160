"""What goes over the wire: JSON and pictures to the page, commands from it."""

import io
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from viewer.futures import Futures
from viewer.session import Outlook, View

JPEG_QUALITY = 92  # of futures; the three large pictures are lossless


class Command(BaseModel):
    """What a page may ask for; all that is named in one message is done."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    action: list[Annotated[float, Field(ge=-1, le=1)]] | None = None  # a human's, (A,); held until the next one
    heard: int | None = None  # the page's number of that action, told back with the first picture that it led to
    control: Literal["agent", "human"] | None = None
    place: Literal["world", "dream"] | None = None
    paused: bool | None = None
    step: Literal[True] | None = None  # one step, and pause
    reset: Annotated[int, Field(ge=0, lt=2**31)] | None = None  # with this seed
    wake: Literal[True] | None = None  # the dream looks
    speed: Annotated[float, Field(ge=0.5, le=60)] | None = None  # steps per second
    temperature: Annotated[float, Field(ge=0, le=5)] | None = None  # of the dream
    horizon: Annotated[int, Field(ge=1, le=100)] | None = None
    open_loop: Annotated[int, Field(ge=0, le=10_000)] | None = None  # steps; 0: until it is woken
    futures: bool | None = None  # whether they are drawn
    record: bool | None = None


def pack(message: Mapping[str, Any], pictures: Mapping[str, bytes]) -> bytes:
    """One message: the length of its header (4 bytes, big endian), the header as JSON, the pictures one by one."""
    sizes = [[name, len(picture)] for name, picture in pictures.items()]
    header = json.dumps({**message, "pictures": sizes}, allow_nan=False).encode()
    return len(header).to_bytes(4, "big") + header + b"".join(pictures.values())


def of_view(view: View, numbers: Mapping[str, Any]) -> bytes:
    """A step: its numbers, and three pictures."""
    pictures = {name: png(getattr(view, name)) for name in ("environment", "reconstruction", "dream")}
    return pack({"kind": "view", **numbers}, pictures)


def numbers_of_view(view: View, outlooks: list[Outlook]) -> dict[str, Any]:
    """What is drawn as curves."""
    numbers = {name: finite(value) for name, value in view._asdict().items() if not isinstance(value, np.ndarray)}
    action = [round(float(value), 4) for value in view.action]
    return numbers | {"action": action, "outlooks": [[finite(value) for value in outlook] for outlook in outlooks]}


def of_futures(futures: Futures, step: int) -> bytes:
    """All pictures on one sheet, a row for each future."""
    rows, columns, _, height, width = futures.pictures.shape
    sheet = to_image(futures.pictures.transpose(2, 0, 3, 1, 4).reshape(-1, rows * height, columns * width))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    message = {
        "kind": "futures",
        "step": step,
        "steps": futures.steps,
        "returns": [finite(float(value)) for value in futures.returns],
        "ranks": futures.ranks,
        "considered": futures.considered,
        "horizon": futures.horizon,
    }
    return pack(message, {"sheet": buffer.getvalue()})


def png(image: np.ndarray) -> bytes:
    """(C, Y, X) uint8, without loss."""
    buffer = io.BytesIO()
    to_image(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def to_image(image: np.ndarray) -> Image.Image:
    """(C, Y, X) uint8 with one channel or three."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
