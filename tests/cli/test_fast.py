"""What `train` says about the compiled loops of a convolutional net."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

TRAIN = """
    import sys
    {before}
    from quickstudy.__main__ import main
    words = "train folder --tasks.path pictures --tasks.size {size} --tasks.ways 2 --tasks.shots 1 --tasks.queries 2"
    words += " --model conv_net --model.filters 2 --model.blocks 2 --out run --no-tensorboard"
    words += " --train.steps 1 --train.validate_tasks 2 --train.milestones []"
    sys.argv = ["quickstudy", *words.split()]
    sys.exit(main())
"""


@pytest.fixture
def pictures(tmp_path):
    draw = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("a", "b", "c"):
            place = tmp_path / "pictures" / split / f"{split}_{name}"
            place.mkdir(parents=True)
            for i in range(4):
                Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("before", "size", "said"),
    [
        ("sys.modules['numba'] = None", 16, 'pip install "quickstudy[fast]"'),
        ("sys.modules['numba'] = None", 5, ""),  # so small that its tasks run under vmap, without the loops
        ("import os; os.environ['NUMBA_CACHE_DIR'] = 'kept'", 16, "compiles batch norm with pooling, once"),
    ],
)
def test_a_training_says_once_how_to_be_faster_and_what_the_first_step_takes(pictures, before, size, said):
    if "NUMBA" in before:
        pytest.importorskip("numba", reason="nothing is compiled without it")
    code = textwrap.dedent(TRAIN).format(before=before, size=size)
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=pictures, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("note: speed: ") == (1 if said else 0)
    assert said in " ".join(done.stderr.split())
