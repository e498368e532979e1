"""Runs `twotower verify` on a version before it is published, in a process of its own.

The process reads everything from disk: what the writer still has in memory cannot hide a damaged file.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from twotower_tf import interpreter
from twotower_tf.errors import ArtifactError

_COMMAND = "from twotower_tf.cli.main import main; sys.exit(main())"
_REFUSED = 2  # exit status of a command that ends with one line on stderr
_PREFIX = "twotower verify: "


def verify_staging(staging: Path) -> None:
    """Verifies the finished directory of a version that is not published yet.

    Raises:
        ArtifactError: with the message of `twotower verify`; nothing may be published then.
    """
    done = run_verify(staging)
    if not done.returncode:
        return
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    if done.returncode == _REFUSED and last.startswith(_PREFIX):
        raise ArtifactError(f"verification failed: {last.removeprefix(_PREFIX)}; nothing was published")
    raise ArtifactError(
        f"{staging}: `twotower verify` ended with status {done.returncode} ({last}); nothing was published"
    )


def run_verify(directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs `twotower verify` on the directory of one version; no module of the working directory is imported."""
    return subprocess.run(
        interpreter.build_command(_COMMAND, "verify", f"--bundle_dir={directory.resolve()}"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=interpreter.build_environment({"TF_CPP_MIN_LOG_LEVEL": "3"}),
        check=False,
    )
