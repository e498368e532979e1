"""Keeps the versions of an export root loaded: new ones before old ones are dropped, broken ones never.

The newest versions that can be loaded are served, or those that were named. A version that cannot be loaded is logged,
stays visible in the status, and is tried again after a minute; until then the versions before it answer.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twotower_tf.bundle.bundle import list_versions
from twotower_tf.errors import TwoTowerError
from twotower_tf.serve.served_version import ServedVersion
from twotower_tf.serve.service_errors import ServiceError, invalid
from twotower_tf.serve.service_metrics import ServiceMetrics
from twotower_tf.serve.service_options import ServiceOptions

LOADING, AVAILABLE, UNLOADING, END = "LOADING", "AVAILABLE", "UNLOADING", "END"
_RETRY_SECONDS = 60.0  # before a version that could not be loaded is tried again
_ENDED = 10  # unloaded versions that the status keeps
_CLOCK_TICK = 2_000_000_000  # nanoseconds: the coarsest that file systems keep

_log = logging.getLogger(__name__)
Load = Callable[[ServiceOptions, int], ServedVersion]
Stamp = dict[str, int]


@dataclass
class VersionStatus:
    """What is known about a version.

    Attributes:
        version: its number.
        state: as TensorFlow Serving names it.
        error: why it could not be loaded; "" for no error.
        failed_at: on the monotonic clock.
    """

    version: int
    state: str
    error: str = ""
    failed_at: float = 0.0

    @property
    def error_code(self) -> str:
        """The name of the gRPC code."""
        return "UNKNOWN" if self.error else "OK"


class ModelManager:
    """The versions of one model. Belongs to one event loop; versions are loaded in a thread."""

    def __init__(self, options: ServiceOptions, metrics: ServiceMetrics, load: Load = ServedVersion.load) -> None:
        """Loads nothing yet."""
        self._options, self._metrics, self._load = options, metrics, load
        self._served: dict[int, ServedVersion] = {}
        self._known: dict[int, VersionStatus] = {}
        self._root_stamp: Stamp | None = None
        self._waits_for = ""  # the last reason that was logged
        self._changed = asyncio.Condition()
        self._polling = asyncio.Lock()
        self._drains: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """Whether a version is available."""
        return bool(self._served)

    @property
    def versions(self) -> list[int]:
        """The available versions, ascending."""
        return sorted(self._served)

    def find(self, name: str, version: int | None = None, label: str = "") -> ServedVersion:
        """Returns an available version: by number or label, else the newest.

        Raises:
            ServiceError: where it is not available.
        """
        if label:
            if label not in self._options.labels:
                raise invalid(f"Unrecognized servable version label: {label}")
            version = self._options.labels[label]
        known = self._served if name == self._options.model_name else {}
        chosen = max(known, default=None) if version is None else version
        if chosen is None or chosen not in known:
            place = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise ServiceError("NOT_FOUND", f"Servable not found for request: {place}")
        return known[chosen]

    def statuses(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Returns the states of a model's versions, newest first.

        Raises:
            ServiceError: where nothing is known about it.
        """
        known = self._known if name == self._options.model_name else {}
        if version is not None:
            if version not in known:
                raise ServiceError("NOT_FOUND", f"Could not find version {version} of model {name}")
            return [known[version]]
        if not known:
            raise ServiceError("NOT_FOUND", f"Could not find any versions of model {name}")
        return [known[each] for each in sorted(known, reverse=True)]

    async def watch(self, looked: Callable[[], None] | None = None) -> None:
        """Polls until it is cancelled; `looked` is called after the first time."""
        fault = ""
        while True:
            try:
                await self.poll()
                fault = ""
            except Exception as error:
                if repr(error) != fault:  # once, not every second
                    _log.exception("%s: cannot be polled", self._options.export_dir)
                fault = repr(error)
            if looked is not None:
                looked()
                looked = None
            await asyncio.sleep(self._options.poll_seconds)

    async def wait_for(self, version: int, deadline: float) -> ServedVersion:
        """Returns a version as soon as it is available, until a moment of the event loop's clock.

        Raises:
            ServiceError: where it is not available by then; at once where all available versions are newer, since none
                older is loaded then.
        """
        seconds = deadline - asyncio.get_running_loop().time()

        def decided() -> bool:
            return version in self._served or (self.ready and version < min(self._served))

        try:
            async with self._changed:
                await asyncio.wait_for(self._changed.wait_for(decided), max(0.0, seconds))
        except asyncio.TimeoutError:
            pass
        if version not in self._served:
            available = ", ".join(map(str, self.versions)) or "none"
            raise ServiceError(
                "UNAVAILABLE",
                f"The user tower answered as version {version}, whose index is not available (available: {available}); "
                "serve that version with --version or --num_versions",
            )
        return self._served[version]

    async def poll(self) -> None:
        """Looks at the export root once, and loads and drops versions."""
        async with self._polling:
            listed = await asyncio.to_thread(self._list)
            if listed is None:
                return
            self._log_wait("" if listed or self._served else await asyncio.to_thread(self._explain_wait))
            self._forget(listed)
            chosen: list[int] = []
            for version in sorted(listed, reverse=True):
                if len(chosen) == (len(self._options.versions) or self._options.num_versions):
                    break
                if version in self._served or await self._try(version):
                    chosen.append(version)
            for version in self.versions if chosen else ():
                if version not in chosen:
                    self._drop(version)

    async def close(self) -> None:
        """Drops all versions, after the requests that use them."""
        for version in self.versions:
            self._drop(version)
        if self._drains:
            await asyncio.wait(self._drains)

    def _list(self) -> list[int] | None:
        """Returns the versions that may be served; None where nothing has changed since the last time."""
        stamp = _stamp(self._options.export_dir)
        served = list(self._served)
        short = len(served) < (len(self._options.versions) or self._options.num_versions)
        due = any(
            each.error and self._due(each) and (short or each.version > min(served))
            for each in list(self._known.values())
        )
        if stamp == self._root_stamp and not due:
            return None
        # A change in the same tick of the file system's clock would leave the stamp as it is.
        settled = max(stamp.values(), default=0) < time.time_ns() - _CLOCK_TICK
        self._root_stamp = stamp if settled else None
        wanted = self._options.versions
        return [each for each in list_versions(self._options.export_dir) if not wanted or each in wanted]

    def _explain_wait(self) -> str:
        """Returns why there is nothing to serve, and what to do."""
        root, wanted = self._options.export_dir, self._options.versions
        if not root.is_dir():
            return f"--export_dir: {root} does not exist yet; waiting for it: `twotower export` makes it"
        found = list_versions(root)
        if not found:
            return f"--export_dir: {root} has no version yet; waiting for the first: `twotower export` writes it"
        numbers = [", ".join(map(str, each)) for each in (wanted, found)]
        return f"--version: {numbers[0]} is not in {root} yet (versions: {numbers[1]}); waiting for it"

    def _log_wait(self, reason: str) -> None:
        """Logs once why there is nothing to serve."""
        if reason and reason != self._waits_for:
            _log.warning("%s", reason)
        self._waits_for = reason

    def _due(self, status: VersionStatus) -> bool:
        return time.monotonic() - status.failed_at >= _RETRY_SECONDS

    def _forget(self, listed: list[int]) -> None:
        """Leaves out of the status the failed versions that were removed, and all but the latest unloaded ones."""
        ended = [each for each in sorted(self._known) if self._known[each].state == END]
        gone = [each for each in ended if self._known[each].error and each not in listed]
        unloaded = [each for each in ended if not self._known[each].error]
        for version in [*gone, *unloaded[:-_ENDED]]:
            del self._known[version]

    async def _try(self, version: int) -> bool:
        """Loads a version; returns whether it is available now."""
        before = self._known.get(version)
        if before is not None and before.error and not self._due(before):
            return False
        status = self._known[version] = VersionStatus(version, LOADING)
        began = time.monotonic()
        try:
            served = await asyncio.to_thread(self._load, self._options, version)
        except Exception as error:
            status.state, status.error, status.failed_at = END, str(error) or repr(error), time.monotonic()
            self._metrics.load_failures.inc()
            _log.error(
                "version %d: cannot be loaded: %s", version, error, exc_info=not isinstance(error, TwoTowerError)
            )
            return False
        async with self._changed:
            self._served[version] = served
            status.state = AVAILABLE
            self._changed.notify_all()
        self._metrics.state_versions(self.versions)
        _log.info("version %d: available after %.2f s", version, time.monotonic() - began)
        return True

    def _drop(self, version: int) -> None:
        task = asyncio.get_running_loop().create_task(self._drain(version))
        self._drains.add(task)
        task.add_done_callback(self._drains.discard)

    async def _drain(self, version: int) -> None:
        """Lets go of a version when its last request is answered."""
        served, status = self._served.pop(version), self._known[version]
        status.state = UNLOADING
        self._metrics.state_versions(self.versions)
        await served.drain()
        del served
        await asyncio.to_thread(gc.collect)  # TensorFlow's objects refer to each other
        status.state = END
        _log.info("version %d: unloaded", version)


def _stamp(root: Path) -> Stamp:
    """Returns what changes when versions come, go or get another file: modification times by directory.

    A copy that is not a rename makes the directory first, its manifest later.
    """
    stamp = {}
    try:
        stamp[""] = root.stat().st_mtime_ns
        for child in root.iterdir():
            if child.name.isdecimal():
                stamp[child.name] = child.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):  # also one that has just been removed
        pass
    return stamp
