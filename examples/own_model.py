"""Your own model and data: any module, any images with labels, any method.

    python examples/own_model.py

This trains an MT-net, made from a module of your own, for a few seconds, and adapts it to one new task.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.evaluation.metrics import METRICS
from quickstudy.types import pick


class SmallNet(nn.Module):
    """A small net with a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.block = nn.Conv2d(16, 32, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(16), nn.BatchNorm2d(32)])
        self.fc = nn.Linear(32 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip((self.stem, self.block), self.norms, strict=True):
            x = nn.functional.max_pool2d(torch.relu(norm(conv(x))), 2)
        return self.fc(x.flatten(1))


def main() -> None:
    """Train, evaluate, adapt."""
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype("float32")
    family = qs.Episodes.by_image(images, digits.target, ways=3, shots=1, queries=5)

    torch.manual_seed(0)
    learner = qs.mtnet(SmallNet(), inner_lr=0.2, inner_steps=2)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-2)
    source = family.source("train", size=8)
    for step in range(300):  # the training loop is your own
        optimizer.zero_grad()
        learner(source(step)).loss.mean().backward()
        optimizer.step()

    print("accuracy on 200 new tasks:", qs.evaluate(learner, family, METRICS["accuracy"], n=200).spread)
    task = pick(family.source("test", size=1)(0), 0)
    classifier = learner.adapt(task.support)  # a plain module, to be called, saved or exported
    print("one task:", (classifier(task.query.x).argmax(-1) == task.query.y).float().mean().item())


if __name__ == "__main__":
    main()
