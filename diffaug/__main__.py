"""`python -m diffaug`, as torchrun starts it."""

import sys

from diffaug.cli import main

sys.exit(main())
