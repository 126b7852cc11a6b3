"""`python -m quickstudy` is `quickstudy`: what `torchrun -m quickstudy` starts."""

import sys

from quickstudy import allocator
from quickstudy.cli import main

allocator.keep()
sys.exit(main())
