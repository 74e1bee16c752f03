"""`python -m diffaug`, as torchrun starts it: one of its processes speaks, and each tells its errors."""

import os
import sys
from pathlib import Path

if os.environ.get("RANK", "0") != "0":
    os.environ["TQDM_DISABLE"] = "1"  # before it is imported
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (until the process ends)

from diffaug.cli import main  # noqa: E402

sys.exit(main())
