"""A model of sentences: a transformer of transformers, adapted by low-rank changes, beside its frozen features.

    pip install 'quickstudy[text]'
    python examples/text.py

A few sentences of each topic are enough. The model reads a dictionary of tensors, as its tokenizer gives them.
"""

from typing import Any

import torch
from torch import Tensor, nn

import quickstudy as qs

LEARN = {
    "delivery": ["Where is my parcel?", "The package has not arrived yet."],
    "payment": ["My card was charged twice.", "I would like my money back."],
    "account": ["I forgot my password.", "How do I change my email address?"],
}
ASK = {
    "delivery": ["When will you ship my order?", "It was sent to the wrong house.", "The courier never came."],
    "payment": ["The invoice is wrong.", "Why did I pay a fee?", "Please refund me."],
    "account": ["I cannot log in.", "Please delete my profile.", "My user name is misspelt."],
}


class Sentences(nn.Module):
    """A model of texts with a head: the mean of its last hidden states, then one linear layer."""

    def __init__(self, model: Any, classes: int) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(model.config.hidden_size, classes)
        nn.init.zeros_(self.head.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(hidden.dtype)
        return self.head(nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))


def main() -> None:
    """Adapt, and compare."""
    torch.manual_seed(0)
    encoder = qs.open_encoder("text")
    few = [(text, label) for label, texts in enumerate(LEARN.values()) for text in texts]
    asked = [(text, label) for label, texts in enumerate(ASK.values()) for text in texts]
    labels, truth = (torch.tensor([label for _, label in pairs]) for pairs in (few, asked))

    def tokens(pairs: list[tuple[str, int]]) -> dict[str, Tensor]:
        batch = encoder.tokenizer([text for text, _ in pairs], padding=True, return_tensors="pt")
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    net = qs.LoRA(Sentences(encoder.model, len(LEARN)), r=4, targets=["query", "value"])
    learner = qs.fomaml(net, inner_lr=2.0, inner_steps=8)
    classifier = learner.adapt(qs.Examples(tokens(few), labels))
    right = (classifier(**tokens(asked)).argmax(1) == truth).float().mean()
    print(f"adapted by low-rank changes: {right:.0%} of {len(asked)} sentences")

    means = encoder.encode([text for text, _ in few]).reshape(len(LEARN), -1, encoder.features).mean(1)
    near = torch.cdist(encoder.encode([text for text, _ in asked]), means).argmin(1)
    print(f"nearest mean of frozen features: {(near == truth).float().mean():.0%}")


if __name__ == "__main__":
    main()
