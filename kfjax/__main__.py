"""`python -m kfjax`: the command line."""

import sys

from kfjax.cli import main

sys.exit(main())
