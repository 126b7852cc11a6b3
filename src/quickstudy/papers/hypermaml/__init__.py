"""HyperMAML's tables and figures as items.

Reference: Przewiezlikowski et al., 2022 (https://arxiv.org/abs/2205.15745).
"""

import quickstudy.papers.hypermaml.measures  # noqa: F401  # measures are entered by being imported
from quickstudy.papers.hypermaml.accuracies import TABLE_1, TABLE_2, TABLE_6, TABLE_7
from quickstudy.papers.hypermaml.steps import TABLE_3, TABLE_4, TABLE_8
from quickstudy.papers.hypermaml.variants import FIGURE_1_3, TABLE_5
from quickstudy.papers.runner.items import Item

ITEMS: tuple[Item, ...] = (TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7, TABLE_8, FIGURE_1_3)
