"""Figures of image tasks: an example task with its predictions, the classes of every split, and the confusions.

Each function draws from the arrays of a result, and returns None if they have nothing to draw. Lengths are in inches.
Class names are shown with spaces for underscores, and never read as markup.
"""

import textwrap
from typing import Any

import numpy as np

from quickstudy.reports import canvas
from quickstudy.reports.canvas import FAINT, INK, RIGHT, WRONG
from quickstudy.storage.result import NO_ANSWER, QUERIES_SHOWN, SHOTS_SHOWN, WAYS_SHOWN, Array, EvaluationResult

IMAGE_SIDE, IMAGE_STEP = 0.78, 0.86
SHEET_COLUMNS = 12
MAX_MATRIX_CLASSES = 20
"""With more classes than this, only the pairs that were confused most often are shown."""
MAX_PAIRS = 20


def draw_task(result: EvaluationResult) -> tuple[bytes, str] | None:
    """A row for each class: its support images, then its query images, framed as right or wrong."""
    arrays = result.arrays
    support_y, query_y = arrays["support_y"], arrays["query_y"]
    support = arrays.get("support_shown", np.arange(len(support_y)))
    query = arrays.get("query_shown", np.arange(len(query_y)))
    if (len(support), len(query)) != (len(arrays["support_x"]), len(arrays["query_x"])):
        return None
    guess = canvas.predicted_classes(arrays["output"])
    labels = np.unique(support_y)
    names = _example_class_names(result, labels)
    shots = [np.flatnonzero(support_y[support] == label)[:SHOTS_SHOWN] for label in labels[:WAYS_SHOWN]]
    asked = [np.flatnonzero(query_y[query] == label)[:QUERIES_SHOWN] for label in labels[:WAYS_SHOWN]]
    titles = ["\n".join(_wrap_name(names[label], 15, 3)) for label in labels[:WAYS_SHOWN]]

    left = 0.2 + 0.08 * max(len(line) for title in titles for line in title.split("\n"))
    start = left + max(map(len, shots)) * IMAGE_STEP + 0.25
    below = {label: _wrap_name(name, 13, 2) for label, name in (names | {-1: "not finite"}).items()}
    gap, top = 0.24 + 0.11 * max(map(len, below.values())), 0.3
    page = _Sheet(start + max(map(len, asked)) * IMAGE_STEP + 0.05, top + (IMAGE_SIDE + gap) * len(titles))
    page.range = float(arrays["support_x"].min()), float(arrays["support_x"].max())
    page.text(left, 0.18, "support", size=10)
    page.text(start, 0.18, "query", size=10)
    page.axes.plot([start - 0.165] * 2, [top, top + (IMAGE_SIDE + gap) * len(titles) - gap], color=FAINT, lw=1)
    for number, (label, title) in enumerate(zip(labels.tolist(), titles, strict=False)):
        y = top + number * (IMAGE_SIDE + gap)
        page.text(left - 0.1, y + IMAGE_SIDE / 2, title, ha="right", va="center", size=9)
        for column, at in enumerate(shots[number]):
            page.image(arrays["support_x"][at], left + column * IMAGE_STEP, y)
        for column, at in enumerate(asked[number]):
            x, given = start + column * IMAGE_STEP, int(guess[query[at]])
            right = given == label
            colour = RIGHT if right else WRONG
            page.image(arrays["query_x"][at], x, y, colour, 2.4, "-" if right else (0, (3, 1.2)))
            text = "✓" if right else "✗ " + "\n".join(below.get(given, [str(given)]))
            size = 8 if len(text) < 8 else 7
            page.text(x + IMAGE_SIDE / 2, y + IMAGE_SIDE + 0.05, text, ha="center", va="top", size=size, color=colour)
    about = "Right: solid frame, ✓. Wrong: dashed frame, ✗ and the class it was taken for."
    parts = [(f"{WAYS_SHOWN} of {len(labels)} classes", len(labels) > WAYS_SHOWN)]
    most = max(int((query_y == label).sum()) for label in labels)
    parts += [(f"{QUERIES_SHOWN} of {most} queries a class", most > QUERIES_SHOWN)]
    cut = " and ".join(part for part, needed in parts if needed)
    return page.png(), f"{canvas.count_right(guess, query_y)} {about}" + (f" The first {cut} are shown." if cut else "")


def draw_contact_sheet(result: EvaluationResult) -> tuple[bytes, str] | None:
    """One image of each class, split by split."""
    arrays = result.arrays
    wanted = ("sheet_x", "sheet_labels", "sheet_splits", "sheet_classes", "sheet_shared")
    if not all(name in arrays for name in wanted):
        return None
    images, labels, homes, classes, shared = (arrays[name] for name in wanted)
    splits = list(dict.fromkeys(homes.tolist()))
    if not len(images) == len(labels) == len(homes) or len(splits) != len(classes):
        return None
    names = _class_names(arrays)
    own = {split: np.flatnonzero(homes == split) for split in splits}
    columns = min(SHEET_COLUMNS, max(map(len, own.values())))
    below = [_wrap_name(names.get(label, str(label)), 14, 2) for label in labels.tolist()]
    row, top = IMAGE_SIDE + 0.12 + 0.12 * max(map(len, below)), 0.42
    height = sum(top + row * -(-len(at) // columns) for at in own.values())
    page = _Sheet(max(0.1 + columns * (IMAGE_STEP + 0.04), 3.2), height)
    page.range = float(images.min()), float(images.max())
    y = 0.0
    for split, total in zip(splits, classes.tolist(), strict=True):
        some = f", {len(own[split])} shown" if len(own[split]) < total else ""
        page.text(0.05, y + 0.28, f"{split}: {total} classes{some}", size=10.5, weight="bold")
        y += top
        for place, at in enumerate(own[split]):
            x, above = 0.05 + place % columns * (IMAGE_STEP + 0.04), y + place // columns * row
            page.image(images[at], x, above)
            page.text(
                x + IMAGE_SIDE / 2, above + IMAGE_SIDE + 0.03, "\n".join(below[at]), ha="center", va="top", size=6.6
            )
        y += -(-len(own[split]) // columns) * row
    if len(splits) == 1:
        sharing = "One split is shown."
    elif len(shared):
        sharing = f"{len(shared)} classes are in more than one split, which divide their images."
    else:
        sharing = "No class is in two splits."
    return page.png(), f"One image of each class. {sharing}"


def draw_confusion(result: EvaluationResult) -> tuple[bytes | None, str] | None:
    """Which classes were taken for which: all pairs of a few classes, or the worst pairs of many.

    There is no image, only a caption, if no query of many classes was wrong.
    """
    rows = result.arrays.get("confusion")
    if rows is None or rows.ndim != 2 or rows.shape[1] != 3 or not len(rows):
        return None
    names = _class_names(result.arrays) | {NO_ANSWER: "not a number"}
    total, right = int(rows[:, 2].sum()), int(rows[rows[:, 0] == rows[:, 1], 2].sum())
    count = f"{total - right:,} of {total:,} queries ({100 * (1 - right / total):.1f}%) were answered wrongly."
    classes = np.unique(rows[:, :2])
    if len(classes) <= MAX_MATRIX_CLASSES:
        return _draw_matrix(rows, names), f"{count} A row is a true class; its cells say how its queries were answered."
    wrong = rows[rows[:, 0] != rows[:, 1]]
    if not len(wrong):
        return None, f"Every one of {total:,} queries was right, so no classes were confused."
    return _draw_pairs(wrong, names), (
        f"{count} These are the {min(MAX_PAIRS, len(wrong))} most frequent of {len(wrong):,} pairs, each the true "
        "class and what it was taken for. Two classes can be confused only in tasks that have both."
    )


def _draw_matrix(rows: Array, names: dict[int, str]) -> bytes:
    """The confusion matrix, in percent of each true class."""
    true, predicted = np.unique(rows[:, 0]), np.unique(rows[:, :2])
    predicted = np.append(predicted[predicted != NO_ANSWER], predicted[predicted == NO_ANSWER])  # no answer comes last
    counts = np.zeros((len(true), len(predicted)))
    place = {label: column for column, label in enumerate(predicted.tolist())}
    counts[np.searchsorted(true, rows[:, 0]), [place[label] for label in rows[:, 1].tolist()]] = rows[:, 2]
    share = counts / counts.sum(1, keepdims=True)
    across, down = (
        ["\n".join(_wrap_name(names.get(label, str(label)), 18, 2)) for label in labels.tolist()]
        for labels in (predicted, true)
    )
    upright = max(len(line) for text in across for line in text.split("\n")) <= 5
    longest = max(len(line) for text in down for line in text.split("\n"))
    cell = 0.46
    width, height = (
        cell * len(predicted) + 0.7 + 0.085 * longest,
        cell * len(true) + 0.6 + (0.1 if upright else 0.085 * longest),
    )
    figure, (axes,) = canvas.new_figure(max(width, 3.4), height)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    for (row, column), value in np.ndenumerate(share):
        if value:
            text = f"{100 * value:.0f}" if value >= 0.005 else "<1"
            axes.text(column, row, text, ha="center", va="center", size=8, color="white" if value > 0.55 else INK)
    axes.set_xticks(range(len(predicted)), across, rotation=0 if upright else 90, fontsize=8.5, parse_math=False)
    axes.set_yticks(range(len(true)), down, fontsize=8.5, parse_math=False)
    axes.set_xticks(np.arange(len(predicted) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(true) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.5)
    axes.tick_params(which="both", length=0, colors=INK)
    axes.spines[:].set_visible(False)
    axes.set_title("percent of the true class's queries", fontsize=10, loc="left", color=INK)
    axes.set_xlabel("predicted", fontsize=9, color=INK)
    axes.set_ylabel("true", fontsize=9, color=INK)
    return canvas.to_png(figure)


def _draw_pairs(wrong: Array, names: dict[int, str]) -> bytes:
    """Bars of the pairs that were confused most often."""
    worst = wrong[np.argsort(-wrong[:, 2], kind="stable")][:MAX_PAIRS]
    pairs = [" → ".join(_shorten(names.get(label, str(label)), 30) for label in pair) for pair in worst[:, :2].tolist()]
    figure, (axes,) = canvas.new_figure(9.0, 0.6 + 0.26 * len(worst))
    bars = axes.barh(range(len(worst)), worst[:, 2], color=WRONG, height=0.68)
    axes.bar_label(bars, fontsize=8.5, color=INK, padding=3)
    canvas.label_axes(axes, "queries of the first class taken for the second", "", "")
    axes.set_yticks(range(len(worst)), pairs, fontsize=8.5, parse_math=False)
    axes.set_xticks([])
    axes.grid(False)
    axes.invert_yaxis()
    axes.spines["bottom"].set_visible(False)
    axes.margins(y=0.01)
    return canvas.to_png(figure)


class _Sheet:
    """A figure on which images and texts are placed by inches from its upper left corner.

    All images are put into one, since matplotlib takes a millisecond for each.
    """

    def __init__(self, width: float, height: float) -> None:
        self.figure, (self.axes,) = canvas.new_figure(width, height)
        self.figure.set_layout_engine("none")
        self.axes.set_position((0, 0, 1, 1))
        self.size = width, height
        self.range = 0.0, 1.0
        self.frames: list[Any] = []
        self.figure.set_dpi(canvas.DPI)
        self.pixels = np.full((round(height * canvas.DPI), round(width * canvas.DPI), 3), 255, np.uint8)
        self.axes.set_axis_off()

    def image(
        self, image: Array, x: float, y: float, colour: str = FAINT, width: float = 0.8, style: Any = "-"
    ) -> None:
        """Put one image `[C, H, W]` into the middle of a square frame."""
        from matplotlib.patches import Rectangle

        low, high = self.range
        shares = np.clip((np.moveaxis(image.astype(np.float64), 0, -1) - low) / max(high - low, 1e-12), 0, 1)
        pixels = np.round(255 * shares).astype(np.uint8)
        tall, wide = (max(1, round(canvas.DPI * IMAGE_SIDE * side / max(image.shape[1:]))) for side in image.shape[1:])
        above, left = (round(canvas.DPI * (at + IMAGE_SIDE / 2) - length / 2) for at, length in ((y, tall), (x, wide)))
        rows, columns = (
            np.arange(length) * side // length for length, side in zip((tall, wide), pixels.shape[:2], strict=True)
        )
        self.pixels[above : above + tall, left : left + wide] = pixels[rows][:, columns]
        self.frames.append(Rectangle((x, y), IMAGE_SIDE, IMAGE_SIDE, fill=False, ec=colour, lw=width, ls=style))

    def text(self, x: float, y: float, words: str, **style: Any) -> None:
        self.axes.text(x, y, words, parse_math=False, **{"color": INK} | style)

    def png(self) -> bytes:
        from matplotlib.collections import PatchCollection

        width, height = self.size
        self.axes.patch.set_visible(False)  # the images are behind it
        self.figure.figimage(self.pixels, zorder=-1)
        self.axes.add_collection(PatchCollection(self.frames, match_original=True))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        return canvas.to_png(self.figure)


def _class_names(arrays: dict[str, Array]) -> dict[int, str]:
    """The names of classes by their labels, as far as the result has them."""
    labels, names = (arrays.get(name, np.empty(0)).tolist() for name in ("labels", "names"))
    return {label: str(name).replace("_", " ") for label, name in zip(labels, names, strict=False)}


def _example_class_names(result: EvaluationResult, labels: Array) -> dict[int, str]:
    """The names of the classes 0..ways-1 of the example task."""
    classes, names = result.arrays.get("classes"), _class_names(result.arrays)
    if classes is None or classes.ndim != 1 or len(classes) <= labels.max():
        return {int(label): f"class {label}" for label in labels}
    return {int(label): names.get(int(classes[label]), str(classes[label])) for label in labels}


def _shorten(name: str, width: int) -> str:
    """Shorten a name by leaving out its middle, since names may differ at either end.

    >>> _shorten("Alphabet_of_the_Magi/character07", 16)
    'Alphabet…acter07'
    """
    half = (width - 1) // 2
    return name if len(name) <= width else f"{name[: width - 1 - half]}…{name[-half:]}"


def _wrap_name(name: str, width: int, most: int) -> list[str]:
    """Break a name into a few lines, at spaces and slashes if it has them.

    >>> _wrap_name("Alphabet of the Magi/character07", 15, 2)
    ['Alphabet of the', 'Magi/ch…acter07']
    """
    lines = textwrap.wrap(name.replace("/", "/ "), width, break_long_words=False) or [name]
    lines = lines if len(lines) <= most else [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return [_shorten(line.replace("/ ", "/"), width) for line in lines]
