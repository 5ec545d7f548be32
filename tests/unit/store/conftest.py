"""What the store puts on disk and names, in order: only that order survives a power cut."""

import os
from pathlib import Path

import pytest


class Disk:
    """Steps as they are taken: ("synced", inode), ("made", path), ("named", path), ("gone", path)."""

    def __init__(self):
        self.steps = []

    def assert_survives(self, target):
        """`target` was on disk before it had its name, and the name, with those of new directories, before the end."""
        synced, made, named = ("synced", target.stat().st_ino), ("made", target.parent), ("named", target)
        assert synced in self.steps, f"{target} was named and never synced"
        assert named in self.steps, f"{target} never was a whole file under another name"
        assert self.steps.index(synced) < self.steps.index(named), f"{target} was named before it was synced"
        after = self.steps[self.steps.index(named) :]
        assert ("synced", target.parent.stat().st_ino) in after, f"the name of {target} was not synced"
        if made in self.steps:
            after = self.steps[self.steps.index(made) :]
            assert ("synced", target.parent.parent.stat().st_ino) in after, f"{target.parent} was not synced"


@pytest.fixture
def disk(monkeypatch):
    watched = Disk()

    def watch(owner, name, step):
        real = getattr(owner, name)

        def called(*args, **options):
            taken = step(*args)
            found = real(*args, **options)
            watched.steps += [taken] if taken else []
            return found

        monkeypatch.setattr(owner, name, called)

    watch(os, "fsync", lambda descriptor: ("synced", os.fstat(descriptor).st_ino))
    watch(Path, "mkdir", lambda path, *_: None if path.exists() else ("made", path))

    watch(Path, "touch", lambda path, *_: ("made", path))
    watch(Path, "unlink", lambda path, *_: ("gone", path))

    def named(source, target):
        return ("named", Path(target)) if Path(target) != source else ("named already", source)

    watch(Path, "replace", named)
    watch(Path, "rename", named)
    return watched
