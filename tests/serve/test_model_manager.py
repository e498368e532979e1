"""Versions: which are loaded, which stay when others are broken, and what the status says."""

import asyncio
import os

import pytest

from twotower_tf.bundle.bundle import list_versions
from twotower_tf.errors import ArtifactError
from twotower_tf.serve import model_manager
from twotower_tf.serve.model_manager import ModelManager
from twotower_tf.serve.served_version import ServedVersion
from twotower_tf.serve.service_errors import ServiceError
from twotower_tf.serve.service_metrics import ServiceMetrics
from twotower_tf.serve.service_options import ServiceOptions


class Loader:
    """Makes empty versions; those in `broken` cannot be loaded."""

    def __init__(self):
        self.broken, self.loaded = set(), []

    def __call__(self, options, version):
        self.loaded.append(version)
        if version in self.broken:
            raise ArtifactError(f"version {version} is damaged")
        served = ServedVersion.__new__(ServedVersion)
        served.version, served._users, served._idle = version, 0, asyncio.Event()
        served._idle.set()
        return served


@pytest.fixture
def loader():
    return Loader()


@pytest.fixture
def manage(tmp_path, loader):
    def make(**options):
        return ModelManager(ServiceOptions(tmp_path, "shop", **options), ServiceMetrics(), loader)

    return make


def publish(root, *versions):
    for version in versions:
        (root / str(version)).mkdir()
        (root / str(version) / "manifest.json").write_text('{"format": "twotower_tf bundle"}')


async def settle(manager):
    await manager.poll()
    for _ in range(100):
        if not manager._drains:
            return
        await asyncio.sleep(0.01)


def states(manager):
    return [(each.version, each.state, each.error) for each in manager.statuses("shop")]


def test_the_newest_version_replaces_the_one_before(tmp_path, manage, loader):
    async def scenario():
        manager = manage()
        with pytest.raises(ServiceError, match="Could not find any versions of model shop"):
            manager.statuses("shop")
        publish(tmp_path, 1, 2)
        await settle(manager)
        assert (manager.versions, loader.loaded) == ([2], [2])
        with manager.find("shop").used() as old:
            publish(tmp_path, 3)
            await manager.poll()
            await asyncio.sleep(0.05)
            assert manager.versions == [3] and old.version == 2
            assert states(manager) == [(3, "AVAILABLE", ""), (2, "UNLOADING", "")]  # drained first
        await settle(manager)
        assert states(manager) == [(3, "AVAILABLE", ""), (2, "END", "")]
        await manager.poll()
        assert loader.loaded == [2, 3]  # nothing changed, nothing was read

    asyncio.run(scenario())


def test_a_broken_version_is_skipped_stated_and_tried_again(tmp_path, manage, loader, monkeypatch):
    async def scenario():
        manager = manage()
        publish(tmp_path, 1, 2)
        loader.broken = {2}
        await settle(manager)
        assert manager.find("shop").version == 1
        assert states(manager) == [(2, "END", "version 2 is damaged"), (1, "AVAILABLE", "")]
        assert manager.statuses("shop", 2)[0].error_code == "UNKNOWN"
        publish(tmp_path, 3)
        loader.broken = {2, 3}
        await settle(manager)
        assert manager.versions == [1] and loader.loaded == [2, 1, 3]
        monkeypatch.setattr(model_manager, "_RETRY_SECONDS", 0.0)
        loader.broken = {3}
        await settle(manager)
        assert manager.versions == [2] and states(manager)[0] == (3, "END", "version 3 is damaged")
        for name in ("manifest.json", ""):
            path = tmp_path / "3" / name
            path.unlink() if name else os.rmdir(path)
        await settle(manager)
        assert [each[0] for each in states(manager)] == [2, 1]

    asyncio.run(scenario())


def test_named_versions_and_several_of_the_newest(tmp_path, manage, loader):
    async def scenario():
        publish(tmp_path, 1, 2, 3, 4)
        both = manage(num_versions=2)
        await settle(both)
        assert both.versions == [3, 4]
        named = manage(versions=(1, 3), labels={"stable": 1, "gone": 2})
        await settle(named)
        assert named.versions == [1, 3]
        assert named.find("shop", label="stable").version == 1 and named.find("shop").version == 3
        for arguments, code, text in (
            ({"label": "gone"}, "NOT_FOUND", "Servable not found for request: Specific(shop, 2)"),
            ({"label": "new"}, "INVALID_ARGUMENT", "Unrecognized servable version label: new"),
            ({"version": 4}, "NOT_FOUND", "Servable not found for request: Specific(shop, 4)"),
        ):
            with pytest.raises(ServiceError) as caught:
                named.find("shop", **arguments)
            assert (caught.value.code, caught.value.message) == (code, text)

    asyncio.run(scenario())


def test_the_last_version_stays_when_the_export_root_is_emptied(tmp_path, manage):
    async def scenario():
        manager = manage()
        publish(tmp_path, 5)
        await settle(manager)
        os.rename(tmp_path / "5", tmp_path / "away")
        await settle(manager)
        assert manager.find("shop").version == 5

    asyncio.run(scenario())


def test_waiting_for_a_version(tmp_path, manage):
    async def scenario():
        manager, loop = manage(), asyncio.get_running_loop()
        with pytest.raises(ServiceError) as caught:
            await manager.wait_for(8, loop.time() + 0.02)
        assert caught.value.code == "UNAVAILABLE"
        waiting = asyncio.ensure_future(manager.wait_for(8, loop.time() + 5))
        await asyncio.sleep(0)
        publish(tmp_path, 8)
        await manager.poll()
        assert (await waiting).version == 8

    asyncio.run(scenario())


def test_a_copy_whose_manifest_arrives_later_is_noticed(tmp_path, manage, monkeypatch):
    """Not every publication is a rename. Without a change, nothing is read."""
    looks = []
    monkeypatch.setattr(model_manager, "list_versions", lambda root: looks.append(root) or list_versions(root))

    def date(seconds):  # the clock of the file system, long ago
        for path in (tmp_path / "5", tmp_path):
            os.utime(path, (seconds, seconds))

    async def scenario():
        manager = manage()
        (tmp_path / "5").mkdir()
        date(1000)
        await settle(manager)
        count = len(looks)
        await settle(manager)
        assert len(looks) == count and not manager.ready
        (tmp_path / "5" / "manifest.json").write_text('{"format": "twotower_tf bundle"}')
        os.utime(tmp_path / "5", (2000, 2000))
        os.utime(tmp_path, (1000, 1000))
        await settle(manager)
        assert manager.versions == [5]

    asyncio.run(scenario())


def test_two_publications_within_one_tick_of_the_clock(tmp_path, manage):
    async def scenario():
        manager = manage()
        publish(tmp_path, 1)
        moment = tmp_path.stat().st_mtime_ns
        await settle(manager)
        publish(tmp_path, 2)
        for path in (tmp_path, tmp_path / "1", tmp_path / "2"):
            os.utime(path, ns=(moment, moment))
        await settle(manager)
        assert manager.versions == [2]

    asyncio.run(scenario())


def test_a_poll_that_fails_is_logged_once_and_repeated(tmp_path, manage, monkeypatch, caplog):
    async def scenario():
        manager, looked = manage(poll_seconds=0.01), asyncio.Event()
        publish(tmp_path, 1)
        fault = [PermissionError("no entry")] * 5

        def list_or_fail(root):
            if fault:
                raise fault.pop()
            return list_versions(root)

        monkeypatch.setattr(model_manager, "list_versions", list_or_fail)
        watching = asyncio.ensure_future(manager.watch(looked.set))
        await asyncio.wait_for(looked.wait(), 10)
        while not manager.ready:
            await asyncio.sleep(0.01)
        watching.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 30))
    assert len([each for each in caplog.records if "cannot be polled" in each.message]) == 1


@pytest.mark.parametrize(
    ("make", "options", "reason"),
    [
        (False, {}, "--export_dir: {root} does not exist yet; waiting for it: `twotower export` makes it"),
        (True, {}, "--export_dir: {root} has no version yet; waiting for the first: `twotower export` writes it"),
        (True, {"versions": (4,)}, "--version: 4 is not in {root} yet (versions: 1, 2); waiting for it"),
    ],
)
def test_why_nothing_is_served_is_logged_once(tmp_path, loader, caplog, make, options, reason):
    root = tmp_path / "export"
    if make:
        root.mkdir()
    if options:
        publish(root, 1, 2)

    async def scenario():
        manager = ModelManager(ServiceOptions(root, "shop", **options), ServiceMetrics(), loader)
        for _ in range(3):
            await manager.poll()
        root.mkdir(exist_ok=True)
        publish(root, 4)
        await manager.poll()
        assert manager.ready

    asyncio.run(scenario())
    assert [each.message for each in caplog.records if each.levelname == "WARNING"] == [reason.format(root=root)]


def test_a_broken_version_that_a_newer_one_has_replaced_is_not_looked_at_again(tmp_path, manage, loader, monkeypatch):
    looks = []
    monkeypatch.setattr(model_manager, "list_versions", lambda root: looks.append(root) or list_versions(root))
    monkeypatch.setattr(model_manager, "_RETRY_SECONDS", 0.0)

    async def scenario():
        manager = manage()
        loader.broken = {1}
        publish(tmp_path, 1)
        await settle(manager)
        publish(tmp_path, 2)
        for path in (tmp_path / "1", tmp_path / "2", tmp_path):
            os.utime(path, (1000, 1000))
        await settle(manager)
        count, loads = len(looks), list(loader.loaded)
        await settle(manager)
        assert manager.versions == [2] and len(looks) == count and loader.loaded == loads

    asyncio.run(scenario())
