"""Runs the `twotower` command: `python -m twotower_tf`."""

import os
import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    # `-m` puts the working directory first on the path, and a start by this file's name (spark-submit) the package
    # itself: a queue.py there would hide the library's.
    package = os.path.dirname(os.path.realpath(__file__))
    if os.path.realpath(sys.path[0]) in (os.path.realpath(os.getcwd()), package):
        del sys.path[0]
        sys.path.append(os.path.dirname(package))  # last, in case the package itself is imported from there

from twotower_tf.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
