"""A data directory as a daemon leaves it, and its backup."""

import hashlib
import sqlite3
from dataclasses import replace

from contract.artifact_samples import IMAGE, store_image
from contract.store_samples import commit, device, release

from ota_bridge.core.catalog import ReleasePart
from ota_bridge.store.backup import Progress, make_backup
from ota_bridge.store.blobs import BlobStore
from ota_bridge.store.restore import restore
from ota_bridge.store.sqlite import SqliteStore

NAME = "ota-bridge.sqlite"
OTHER = hashlib.shake_256(b"another image").digest(5000)
NOW_S = 1_700_000_000


class Data:
    """A directory with a database and artifacts; a store is open on it until `stop`."""

    def __init__(self, root):
        self.root = root
        self.database = root / NAME
        self.blobs = BlobStore(root)
        self.store = SqliteStore.open(self.database, deliver=lambda run: run())

    def stop(self):
        self.store.close()

    def add_devices(self, *names):
        commit(self.store, lambda unit: [unit.devices.put(device(name)) for name in names])

    def devices(self):
        return self.store.read(lambda unit: [one.id.name for one in unit.devices.page()])

    def add_release(self, version, image=IMAGE):
        manifest, stored = store_image(self.blobs, image)
        part = ReleasePart(
            component="firmware", envelope=b"envelope", manifest=replace(manifest, version=version), md5=stored.md5
        )
        commit(self.store, lambda unit: unit.releases.put(release(version, parts={"firmware": part})))
        return part.manifest

    def back_up(self, target, **options):
        return back_up(self.root, target, **options)


def back_up(root, target, **progress):
    return make_backup(root / NAME, root, target, taken_s=NOW_S, progress=Progress(**progress))


def put_back(file, root, **progress):
    return restore(file, root, NAME, wall=NOW_S, progress=Progress(**progress))


def rows(path, sql):
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    found = connection.execute(sql).fetchall()
    connection.close()
    return found


def names_in(path):
    """The devices of a database."""
    return [name for (name,) in rows(path, "SELECT name FROM devices ORDER BY name")]
