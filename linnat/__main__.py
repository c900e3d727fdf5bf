"""What does `python -m linnat` do? The same as the command `linnat`."""

from __future__ import annotations

import sys

from linnat.cli import main

if __name__ == "__main__":
    sys.exit(main())
