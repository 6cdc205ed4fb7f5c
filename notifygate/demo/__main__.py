"""`python -m notifygate.demo` plays the demo."""

from __future__ import annotations

from notifygate.demo import main

raise SystemExit(main())
