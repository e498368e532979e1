"""`python -m twotower_tf` is `twotower`."""

import sys

from twotower_tf.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
