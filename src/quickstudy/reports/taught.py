"""One page with pictures of what a model was taught and what it predicted. It opens offline: pictures are inside."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageOps

from quickstudy.reports.report import read_templates, refuse_foreign_page
from quickstudy.storage.files import explain_disk_errors, write_atomic

THUMBNAIL = 160
SHOWN_PER_CLASS = 24


class Shown(NamedTuple):
    """A picture on the page: its name, how it is opened, its class, and the probability of a prediction."""

    name: str
    open: Callable[[], Image.Image]
    label: str
    probability: float | None = None


def write_taught_page(
    folder: Path, about: Mapping[str, Any], taught: Sequence[Shown], predicted: Sequence[Shown]
) -> Path:
    """Write `folder/index.html`, and return its path.

    Args:
        folder: The directory, which may be new.
        about: The model: `base`, `calibration`, `notes`.
        taught: Pictures that it was taught.
        predicted: Pictures that it was asked about.
    """
    refuse_foreign_page(folder)
    parts = {"Taught": taught, "Predicted": predicted}
    sections = [{"title": title, "groups": _groups(own)} for title, own in parts.items() if own]
    template = read_templates("reports").get_template("taught.html.jinja")
    page = template.render(title=" and ".join(parts).lower(), about=about, sections=sections)
    with explain_disk_errors(folder, "Give another directory; the model is not affected."):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "index.html", page.encode())
    return folder / "index.html"


def _groups(pictures: Sequence[Shown]) -> list[dict[str, Any]]:
    """Pictures by their label, the most probable first."""
    groups: dict[str, list[Shown]] = {}
    for picture in pictures:
        groups.setdefault(picture.label, []).append(picture)
    made = []
    for name, own in groups.items():
        own.sort(key=lambda picture: -(picture.probability or 0))
        shown = [_describe(picture) for picture in own[:SHOWN_PER_CLASS]]
        made.append({"name": name, "pictures": shown, "more": len(own) - len(shown)})
    return made


def _describe(picture: Shown) -> dict[str, str]:
    p = picture.probability
    caption = picture.name if p is None else f"{picture.name}: {100 * p:.0f} %"
    return {"source": _data_url(picture), "name": picture.name, "caption": caption}


def _data_url(picture: Shown) -> str:
    """A small picture as a text; empty for what cannot be shown."""
    try:
        small = ImageOps.exif_transpose(picture.open()).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
