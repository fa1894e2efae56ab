"""``python -m nelbo`` is ``nelbo``."""

import sys

from nelbo.cli import main

sys.exit(main())
