"""What HyperMAML's tables report, number by number: the paper's own rows and those it quotes from the literature.

A table is text: a line a method, a field a column, "value interval" or a dash where the paper has none.

Reference: Przewiezlikowski et al., 2022 (https://arxiv.org/abs/2205.15745).
"""

from collections.abc import Mapping, Sequence

from quickstudy.papers.runner.rows import Cell, Reported, Row

Table = Mapping[str, Mapping[str, Reported]]

IN_DOMAIN = ("CUB 1-shot", "CUB 5-shot", "mini-ImageNet 1-shot", "mini-ImageNet 5-shot")
CROSS_DOMAIN = (
    "Omniglot to EMNIST 1-shot",
    "Omniglot to EMNIST 5-shot",
    "mini-ImageNet to CUB 1-shot",
    "mini-ImageNet to CUB 5-shot",
)


def table(source: str, columns: Sequence[str], text: str) -> dict[str, dict[str, Reported]]:
    """Reported numbers by method and column.

    >>> table("table 9", ("a", "b"), "MAML | 1.5 .2 | -")
    {'MAML': {'a': Reported(value=1.5, interval=0.2, source='table 9')}}
    """
    made: dict[str, dict[str, Reported]] = {}
    for line in text.strip().splitlines():
        method, *fields = (field.strip() for field in line.split("|"))
        numbers = [[float(word) for word in field.split() if word != "-"] for field in fields]
        made[method] = {
            column: Reported(own[0], own[1] if len(own) > 1 else None, source)
            for column, own in zip(columns, numbers, strict=True)
            if own
        }
    return made


def quoted(of: Table, but: Sequence[str]) -> tuple[Row, ...]:
    """A row for each method that is not run here."""
    return tuple(
        Row(_named(method), method, {column: Cell(reported=(said,)) for column, said in numbers.items()})
        for method, numbers in of.items()
        if method not in but
    )


def _named(method: str) -> str:
    """A row's name.

    >>> _named("OVE PG GP + Cosine (ML)")
    'quoted-ove-pg-gp-cosine-ml'
    """
    kept = "".join(letter if letter.isalnum() else " " for letter in method.lower().replace("++", "pp"))
    return "-".join(["quoted", *kept.split()])


TABLE_1 = table(
    "table 1",
    IN_DOMAIN,
    """
    MAML             | 56.11 .69 | 74.84 .62 | 45.39 .49  | 61.58 .53
    MAML++           | -         | -         | 52.15 .26  | 68.32 .44
    iMAML-HF         | -         | -         | 49.30 1.88 | -
    SignMAML         | -         | -         | 42.90 1.50 | 60.70 .70
    Bayesian MAML    | -         | -         | 53.80 1.46 | 64.23 .69
    Unicorn-MAML     | -         | -         | 54.89      | -
    HyperShot        | 65.27 .24 | 79.80 .16 | 52.42 .46  | 68.78 .29
    MLH              | -         | -         | 49.41 .96  | 67.16 .42
    PPA              | -         | -         | 54.53 .40  | -
    FEAT             | 68.87 .22 | 82.90 .15 | 55.15 .20  | 71.61 .16
    HyperTransformer | -         | -         | 54.10      | 68.50
    HyperMAML        | 66.11 .28 | 78.89 .19 | 53.41 .21  | 68.76 .17
    """,
)

TABLE_6 = table(
    "table 6",
    IN_DOMAIN,
    """
    ML-LSTM                 | -          | -         | 43.44 .77  | 60.60 .71
    SNAIL                   | -          | -         | 45.10      | 55.20
    LLAMA                   | -          | -         | 49.40 1.83 | -
    VERSA                   | -          | -         | 48.53 1.84 | 67.37 .86
    Amortized VI            | -          | -         | 44.13 1.78 | 55.68 .91
    Meta-Mixture            | -          | -         | 49.60 1.50 | 64.60 .92
    SimpleShot              | -          | -         | 49.69 .19  | 66.92 .17
    Feature Transfer        | 46.19 .64  | 68.40 .79 | 39.51 .23  | 60.51 .55
    Baseline++              | 61.75 .95  | 78.51 .59 | 47.15 .49  | 66.18 .18
    MatchingNet             | 60.19 1.02 | 75.11 .35 | 48.25 .65  | 62.71 .44
    ProtoNet                | 52.52 1.90 | 75.93 .46 | 44.19 1.30 | 64.07 .65
    RelationNet             | 62.52 .34  | 78.22 .07 | 48.76 .17  | 64.20 .28
    DKT + CosSim            | 63.37 .19  | 77.73 .26 | 48.64 .45  | 62.85 .37
    DKT + BNCosSim          | 62.96 .62  | 77.76 .62 | 49.73 .07  | 64.00 .09
    GPLDLA                  | 63.40 .14  | 78.86 .35 | 52.58 .19  | -
    VAMPIRE                 | -          | -         | 51.54 .74  | 64.31 .74
    PLATIPUS                | -          | -         | 50.13 1.86 | -
    ABML                    | 49.57 .42  | 68.94 .16 | 45.00 .60  | -
    OVE PG GP + Cosine (ML) | 63.98 .43  | 77.44 .18 | 50.02 .35  | 64.58 .31
    OVE PG GP + Cosine (PL) | 60.11 .26  | 79.07 .05 | 48.00 .24  | 67.14 .23
    Reptile                 | -          | -         | 49.97 .32  | 65.99 .58
    R2-D2                   | -          | -         | 48.70 .60  | 65.50 .60
    VSM                     | -          | -         | 54.73 1.60 | 68.01 .90
    PPA                     | -          | -         | 54.53 .40  | -
    DFSVLwF                 | -          | -         | 56.20 .86  | -
    FEAT                    | 68.87 .22  | 82.90 .15 | 55.15 .20  | 71.61 .16
    HyperShot               | 65.27 .24  | 79.80 .16 | 52.42 .46  | 68.78 .29
    HyperShot + finetuning  | 66.13 .26  | 80.07 .22 | 53.18 .45  | 69.62 .28
    MAML                    | 56.11 .69  | 74.84 .62 | 45.39 .49  | 61.58 .53
    MAML++                  | -          | -         | 52.15 .26  | 68.32 .44
    iMAML-HF                | -          | -         | 49.30 1.88 | -
    SignMAML                | -          | -         | 42.90 1.50 | 60.70 .70
    Bayesian MAML           | -          | -         | 53.80 1.46 | 64.23 .69
    Unicorn-MAML            | -          | -         | 54.89      | -
    Meta-SGD                | -          | -         | 50.47 1.87 | 64.03 .94
    MetaNet                 | -          | -         | 49.21 .96  | -
    PAMELA                  | -          | -         | 53.50 .89  | 70.51 .67
    HyperMAML               | 66.11 .28  | 78.89 .19 | 53.41 .21  | 68.76 .17
    """,
)

TABLE_2 = table(
    "table 2",
    CROSS_DOMAIN,
    """
    Feature Transfer        | 64.22 1.24 | 86.10 .84  | 32.77 .35  | 50.34 .27
    Baseline++              | 56.84 .91  | 80.01 .92  | 39.19 .12  | 57.31 .11
    MatchingNet             | 75.01 2.09 | 87.41 1.79 | 36.98 .06  | 50.72 .36
    ProtoNet                | 72.04 .82  | 87.22 1.01 | 33.27 1.09 | 52.16 .17
    RelationNet             | 75.62 1.00 | 87.84 .27  | 37.13 .20  | 51.76 1.48
    DKT                     | 75.40 1.10 | 90.30 .49  | 40.14 .18  | 56.40 1.34
    OVE PG GP + Cosine (ML) | 68.43 .67  | 86.22 .20  | 39.66 .18  | 55.71 .31
    OVE PG GP + Cosine (PL) | 77.00 .50  | 87.52 .19  | 37.49 .11  | 57.23 .31
    HyperShot               | 78.06 .24  | 89.04 .18  | 39.09 .28  | 57.77 .33
    HyperShot + finetuning  | 80.65 .30  | 90.81 .16  | 40.03 .41  | 58.86 .38
    MAML                    | 74.81 .25  | 83.54 1.79 | 34.01 1.25 | 48.83 .62
    Bayesian MAML           | 63.94 .47  | 65.26 .30  | 33.52 .36  | 51.35 .16
    HyperMAML               | 79.07 1.09 | 89.22 .78  | 36.32 .61  | 49.43 .14
    """,
)

TABLE_3 = table(
    "table 3",
    ("weight", "bias"),
    """
    MAML      | 2.53 .29   | 1.47 .14
    HyperMAML | 113.28 .63 | 27.72 .68
    """,
)

TABLE_4 = table(
    "table 4",
    ("seconds", "accuracy"),
    """
    0         | 2.17 .28    | 19.978 .348
    1         | 5.16 .13    | 74.67 .25
    2         | 7.30 .11    | 74.69 .24
    3         | 8.87 .08    | 74.71 .25
    4         | 10.79 .19   | 74.71 .24
    5         | 12.66 .14   | 74.71 .23
    10        | 22.60 .28   | 74.74 .25
    25        | 51.75 .24   | 74.78 .25
    50        | 103.88 2.24 | 74.82 .25
    100       | 212.62 2.24 | 74.86 .27
    HyperMAML | 8.21 .41    | 80.78 .59
    """,
)

TABLE_7 = table(
    "table 7",
    IN_DOMAIN[2:],
    """
    Cosine classifier      | 55.43 .81 | 77.18 .61
    TADAM                  | 58.50 .30 | 76.70 .30
    Shot-Free              | 59.04     | 77.64
    TPN                    | 59.46     | 75.65
    HyperShot              | 59.12 .26 | 76.53 .22
    HyperShot + adaptation | 60.30 .31 | 76.21 .20
    MTL                    | 61.20 1.80 | 75.50 .80
    RFS-simple             | 62.02 .63 | 79.64 .44
    ProtoNet               | 62.39 .21 | 80.53 .14
    MetaOptNet             | 62.64 .82 | 78.63 .46
    MatchingNet            | 63.08 .80 | 75.99 .60
    MAML                   | 63.11 .92 | 80.81 .14
    PPA                    | 59.60     | 73.34
    CAN                    | 63.85 .48 | 79.44 .34
    NegMargin              | 63.85 .81 | 81.57 .56
    DeepEMD                | 65.91 .82 | 82.41 .56
    Unicorn-MAML           | 65.17 .20 | 84.30 .14
    FEAT                   | 66.78 .20 | 82.05 .14
    RENet                  | 67.60 .44 | 82.58 .30
    LEO                    | 61.76 .08 | 81.44 .09
    HyperMAML              | 60.93 .22 | 75.74 .17
    """,
)

TABLE_8 = table(
    "table 8",
    ("CUB seconds", "CUB accuracy", "mini-ImageNet seconds", "mini-ImageNet accuracy"),
    """
    0         | 4.15 .03  | 20.01 .02 | 4.24 .14  | 20.10 .31
    1         | 6.89 .10  | 47.99 .22 | 8.48 .14  | 43.46 .42
    2         | 9.44 .15  | 58.53 .55 | 10.50 .80 | 48.71 .19
    3         | 11.60 .02 | 61.54 .41 | 13.17 .26 | 48.32 .38
    4         | 12.97 .09 | 62.18 .38 | 15.17 .18 | 48.82 .25
    5         | 15.00 .17 | 62.66 .40 | 17.29 .32 | 48.89 .31
    6         | 16.90 .12 | 62.77 .36 | 19.01 .26 | 48.80 .24
    7         | 19.07 .17 | 62.83 .34 | 20.55 .30 | 48.87 .29
    HyperMAML | 8.46 .37  | 66.11 .28 | 11.11 .25 | 53.41 .21
    """,
)
