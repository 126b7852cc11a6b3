"""`python -m quickstudy` is `quickstudy`: what `torchrun -m quickstudy` starts."""

import sys

from quickstudy.cli import main

sys.exit(main())
