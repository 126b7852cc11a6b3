"""The numbers that the thesis prints (Lee, 2018; T-net and MT-net)."""

from quickstudy.papers.runner.rows import Reported

Numbers = dict[str, tuple[tuple[float, float | None], ...]]

SHOTS = (5, 10, 20)
SINE: Numbers = {
    "maml": ((1.07, 0.11), (0.71, 0.07), (0.50, 0.05)),
    "meta_sgd": ((0.88, 0.14), (0.53, 0.09), (0.35, 0.06)),
    "mnet_full": ((0.91, 0.09), (0.63, 0.07), (0.38, 0.04)),
    "mnet": ((0.88, 0.09), (0.60, 0.06), (0.41, 0.04)),
    "tnet": ((0.83, 0.08), (0.56, 0.06), (0.38, 0.04)),
    "mtnet_full": ((0.81, 0.08), (0.51, 0.05), (0.35, 0.04)),
    "mtnet": ((0.76, 0.09), (0.49, 0.05), (0.33, 0.04)),
}
"""Table 6.1, at 5, 10 and 20 shots."""

LEVELS = {name: SINE[name][1][0] for name in ("maml", "tnet", "mtnet")}

ALPHAS = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)
STEP_SIZES: Numbers = {
    "maml": ((171.92, 25.04), (5.81, 0.49), (1.05, 0.11), (0.71, 0.07), (0.82, 0.08), (2.54, 0.19)),
    "tnet": ((4.08, 0.30), (4.15, 0.30), (0.68, 0.06), (0.56, 0.06), (0.59, 0.06), (0.62, 0.06)),
    "mtnet": ((4.18, 0.30), (0.61, 0.07), (0.54, 0.05), (0.49, 0.05), (0.59, 0.06), (0.72, 0.07)),
}
"""Table 6.2, in the order of `ALPHAS`."""

OMNIGLOT: Numbers = {
    "matching": ((98.1, None), (93.8, None)),
    "prototypical": ((97.4, None), (92.0, None)),
    "map_ssvm": ((98.6, None), (95.4, None)),
    "maml": ((98.7, 0.4), (95.8, 0.3)),
    "meta_sgd": ((99.53, 0.26), (95.93, 0.38)),
    "tnet": ((99.4, 0.3), (96.1, 0.3)),
    "mtnet": ((99.5, 0.3), (96.2, 0.4)),
}
"""Table 6.3, top: 5-way and 20-way, 1-shot."""

MINI: Numbers = {
    "matching": ((43.56, 0.84),),
    "prototypical": ((46.61, 0.78),),
    "map_ssvm": ((50.32, 0.80),),
    "fine_tune": ((28.86, 0.54),),
    "nearest": ((41.08, 0.70),),
    "lstm": ((43.44, 0.77),),
    "maml": ((48.70, 1.84),),
    "l_maml": ((49.40, 1.83),),
    "meta_sgd": ((50.47, 1.87),),
    "tnet": ((50.86, 1.82),),
    "mtnet": ((51.70, 1.84),),
}
"""Table 6.3, bottom: 5-way 1-shot."""

LABELS = {
    "maml": "MAML",
    "meta_sgd": "Meta-SGD",
    "mnet_full": "M-net-full",
    "mnet": "M-net",
    "tnet": "T-net",
    "mtnet_full": "MT-net-full",
    "mtnet": "MT-net",
    "matching": "Matching networks",
    "prototypical": "Prototypical networks",
    "map_ssvm": "mAP-SSVM",
    "fine_tune": "Fine-tuning",
    "nearest": "Nearest neighbour",
    "lstm": "Meta-learner LSTM",
    "l_maml": "L-MAML",
}


def reported(numbers: Numbers, name: str, index: int, source: str) -> tuple[Reported, ...]:
    """A number of a table, if it has one."""
    if name not in numbers:
        return ()
    value, interval = numbers[name][index]
    return (Reported(value, interval, source),)
