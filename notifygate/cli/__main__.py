"""`python -m notifygate.cli`: the command line."""

from __future__ import annotations

import sys

from notifygate.cli import main

sys.exit(main())
