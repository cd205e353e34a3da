"""``python -m fastsac``."""

import sys

from fastsac.cli import main

sys.exit(main())
