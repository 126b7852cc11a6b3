"""HyperMAML's tables and figures as items.

Reference: Przewiezlikowski et al., 2022 (https://arxiv.org/abs/2205.15745).
"""

from quickstudy.reproduce import hypermaml_measures as hypermaml_measures
from quickstudy.reproduce.hypermaml_accuracies import TABLE_1, TABLE_2, TABLE_6, TABLE_7
from quickstudy.reproduce.hypermaml_steps import TABLE_3, TABLE_4, TABLE_8
from quickstudy.reproduce.hypermaml_variants import FIGURE_1_3, TABLE_5
from quickstudy.reproduce.items import Item

ITEMS: tuple[Item, ...] = (TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7, TABLE_8, FIGURE_1_3)
