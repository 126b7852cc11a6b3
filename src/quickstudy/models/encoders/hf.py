"""Encoders from transformers: models of pictures or of texts, by their name on the Hugging Face Hub or from a folder.

Weights are read from safetensors only, and no code of a repository is run. The preparation of pictures is ours, by the
numbers in the model's `preprocessor_config.json`.
"""

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from quickstudy.errors import InputError, describe_error
from quickstudy.models.encoders.cache import hash_content
from quickstudy.models.encoders.encoder import Encoder, digest_module
from quickstudy.models.encoders.libraries import count_features, make_preparation, require_library, square_side
from quickstudy.models.encoders.pictures import PictureEncoder, PicturePreparation
from quickstudy.storage.files import as_path, read_json

HF_INSTALL = "pip install 'quickstudy[hf]'"
RESAMPLES = {1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "area"}
"""Pillow's numbers of filters, as the files have them."""
PICTURE_FILES = ("preprocessor_config.json", "processor_config.json")


def open_hf(place: str) -> Encoder:
    """A model of transformers by its name on the Hub, or from a folder: of pictures or of texts."""
    name = f"hf:{place}"
    transformers = require_library("transformers", f"The encoder {name!r}", HF_INSTALL)
    folder = as_path(place)
    source = str(folder) if folder.is_dir() else place
    options = {"trust_remote_code": False, "local_files_only": folder.is_dir()}
    try:
        model = load_model(transformers, source, **options)
        settings = _picture_settings(transformers, source, options["local_files_only"])
        tokenizer = None if settings else transformers.AutoTokenizer.from_pretrained(source, **options)
    except InputError:
        raise
    except Exception as error:  # no such model, no network, no safetensors, an architecture that is not known
        raise InputError(f"The encoder {name!r} cannot be opened: {describe_error(error)}.") from error
    if tokenizer is not None:
        return TextEncoder(name, model, tokenizer)
    network = _PictureFeatures(model)
    preparation = hf_preparation(name, settings)
    features = count_features(network, preparation)
    return PictureEncoder(name, model.config.to_json_string(), network, features, preparation)


def load_model(transformers: Any, source: str, **options: Any) -> Any:
    """A model in single precision, from safetensors only, without the progress bar of its library."""
    logging = transformers.utils.logging
    shows = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return transformers.AutoModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32, **options)
    finally:
        if shows:
            logging.enable_progress_bar()


def _picture_settings(transformers: Any, source: str, local: bool) -> Mapping[str, Any]:
    """How a model wants its pictures; empty for a model of texts."""
    for name in PICTURE_FILES:
        path = transformers.utils.cached_file(
            source, name, local_files_only=local, _raise_exceptions_for_missing_entries=False
        )
        if path is not None:
            read = read_json(Path(path).resolve())  # the Hub's cache holds links
            settings: Mapping[str, Any] = read.get("image_processor", read)
            if "image_mean" in settings or "size" in settings:
                return settings
    return {}


def hf_preparation(name: str, settings: Mapping[str, Any]) -> PicturePreparation:
    """Our preparation, by the numbers of a `preprocessor_config.json`.

    >>> numbers = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "resample": 3}
    >>> hf_preparation("hf:dino", numbers | {"image_mean": [0.5] * 3, "image_std": [0.2] * 3}).decoding
    Decoding(side=224, channels=3, resample='bicubic', invert=False, fit='crop', keep=0.875)
    """
    size, crop = settings.get("size", 224), settings.get("crop_size")
    whole = square_side(size, name)
    crops = crop is not None and settings.get("do_center_crop", True)
    side = square_side(crop, name) if crops else whole
    resample = RESAMPLES.get(settings.get("resample", 2), str(settings.get("resample")))
    mean, std = settings.get("image_mean", 0.0), settings.get("image_std", 1.0)
    if not settings.get("do_normalize", True):
        mean, std = 0.0, 1.0
    if not settings.get("do_rescale", True) or abs(settings.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-6:
        raise InputError(f"{name} reads pixels that are not scaled to 0 to 1, which is not done here.")
    stretches = isinstance(size, dict) and "height" in size and not crops
    return make_preparation(name, side, resample, mean, std, fit="stretch" if stretches else "crop", keep=side / whole)


class _PictureFeatures(nn.Module):
    """The pooled output of a model of pictures; of a model of pictures and texts, the features of the picture."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Float[Tensor, "n features"]:
        projected = getattr(self.model, "get_image_features", None)
        output: Any = projected(pixel_values=x) if projected else self.model(pixel_values=x)
        if isinstance(output, Tensor):
            return output.flatten(1)
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        if pooled is None:
            hidden: Tensor = output.last_hidden_state
            pooled = hidden[:, 0] if hidden.ndim == 3 else hidden.mean((2, 3))
        return pooled.flatten(1)


class TextEncoder(Encoder):
    """A model of texts: the mean of its last hidden states over the tokens of a text.

    Args:
        name: What it is opened by.
        model: A model of transformers.
        tokenizer: Its tokenizer.
        unit: Whether features have length 1.
        most_tokens: A longer text is cut; by default as many as the model takes.
    """

    takes = "texts"

    def __init__(
        self, name: str, model: Any, tokenizer: Any, *, unit: bool = False, most_tokens: int | None = None
    ) -> None:
        self.name, self.model, self.tokenizer = name, model.eval().requires_grad_(False), tokenizer
        places = getattr(model.config, "max_position_embeddings", None) or 512
        self.most_tokens = min(most_tokens or places, places)
        self.unit = unit
        self._size: int = model.config.hidden_size
        self._lock = Lock()  # a fast tokenizer refuses a second thread
        backend = getattr(tokenizer, "backend_tokenizer", None)
        words = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
        about = {"kind": model.config.to_json_string(), "words": words, "unit": unit, "tokens": self.most_tokens}
        self.digest = digest_module(model, about)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=Lock())

    @property
    def features(self) -> int:
        return self._size

    def key(self, item: Any) -> bytes:
        if not isinstance(item, str):
            what = "the path of a file" if isinstance(item, Path) else f"a {type(item).__name__}"
            raise ValueError(f"{what} is no text")
        return hash_content(b"text", item.encode("utf-8", "surrogatepass"))

    def encode_one(self, item: Any) -> Float[Tensor, " features"]:
        with self._lock:
            tokens = self.tokenizer(item, truncation=True, max_length=self.most_tokens, return_tensors="pt")
        if not tokens["input_ids"].numel():
            raise ValueError("the text has no tokens")
        mean: Tensor = self.model(**tokens).last_hidden_state[0].mean(0)
        return F.normalize(mean, dim=0) if self.unit else mean
