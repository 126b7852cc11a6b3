"""`python -m quickstudy` is `quickstudy`: what `torchrun -m quickstudy` starts."""

import sys

from quickstudy.cli.main import main
from quickstudy.engine import allocator

allocator.keep_freed_memory()
sys.exit(main())
