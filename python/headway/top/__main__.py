"""`python -m headway.top`."""

import sys

from headway.top.command import main

sys.exit(main())
