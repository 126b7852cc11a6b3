"""Measures of the questions that the papers leave open."""

from quickstudy.papers.runner.measures import Reading, Trained, measure


@measure("parameters")
def parameters(one: Trained) -> Reading:
    """How many thousand numbers meta-training changes: those of the net, and those of its rule."""
    return Reading(sum(p.numel() for p in one.setup().learner.meta_params().values()) / 1000)
