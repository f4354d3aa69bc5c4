"""`python -m headway.demo` is `headway demo`."""

import sys

from headway.demo import main

if __name__ == "__main__":
    sys.exit(main())
