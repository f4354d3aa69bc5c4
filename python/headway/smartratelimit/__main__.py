"""`python -m headway.smartratelimit`, and the drop-in's `python -m smartratelimit`."""

import sys

from headway.smartratelimit.cli import main

if __name__ == "__main__":
    sys.exit(main())
