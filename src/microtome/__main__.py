"""``python -m microtome``: the same as the ``microtome`` command."""

import sys

from microtome.cli.main import main

sys.exit(main())
