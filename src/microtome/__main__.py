"""``python -m microtome``: the same as the ``microtome`` command."""

import os
import sys

from microtome.cli.main import main

code = main()
if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
    # Under torchrun the process ends here and now: while Python tidies up, a network thread of torch that
    # wants the interpreter's lock would be killed inside C++, which aborts a process that has done its work.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
