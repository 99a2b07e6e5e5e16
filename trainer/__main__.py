"""`python -m trainer` is `ecg-trainer`: what `torchrun -m trainer` starts in each process."""

from __future__ import annotations

import sys

from trainer.cli import main

if __name__ == "__main__":
    sys.exit(main())
