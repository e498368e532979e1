"""`python -m twotower_tf` is `twotower`."""

import os
import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    # `-m` has put the working directory first, and a start by this file's name (spark-submit) the package itself:
    # a queue.py there is not the library's.
    package = os.path.dirname(os.path.realpath(__file__))
    if os.path.realpath(sys.path[0]) in (os.path.realpath(os.getcwd()), package):
        del sys.path[0]
        sys.path.append(os.path.dirname(package))  # last: where the package itself may have come from

from twotower_tf.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
