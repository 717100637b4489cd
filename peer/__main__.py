"""``python -m quidnunc.peer`` is the command ``quidnunc``."""

import sys

from quidnunc.peer.cli import main

sys.exit(main())
