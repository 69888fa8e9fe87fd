# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel modules come with all that they need, in an order in which insmod takes them."""

import pytest

from vinci.images.modules import dependency_closure

MODULES_DEP = """\
kernel/fs/nfsd/nfsd.ko: kernel/fs/lockd/lockd.ko kernel/net/sunrpc/sunrpc.ko kernel/fs/nfs_common/grace.ko
kernel/fs/lockd/lockd.ko: kernel/fs/nfs_common/grace.ko kernel/net/sunrpc/sunrpc.ko
kernel/fs/nfs_common/grace.ko:
kernel/net/sunrpc/sunrpc.ko:
kernel/drivers/char/hw_random/virtio-rng.ko:
"""


def test_each_module_follows_what_it_needs() -> None:
    order = dependency_closure(MODULES_DEP, ("nfsd",))
    names = [path.rsplit("/", 1)[1] for path in order]
    assert set(names) == {"nfsd.ko", "lockd.ko", "grace.ko", "sunrpc.ko"}
    assert names.index("grace.ko") < names.index("lockd.ko") < names.index("nfsd.ko")


def test_a_module_wanted_twice_is_listed_once() -> None:
    assert len(dependency_closure(MODULES_DEP, ("lockd", "nfsd", "sunrpc"))) == 4


def test_dashes_and_underscores_are_the_same() -> None:
    assert dependency_closure(MODULES_DEP, ("virtio_rng",)) == ("kernel/drivers/char/hw_random/virtio-rng.ko",)


def test_an_unknown_module_is_an_error() -> None:
    with pytest.raises(KeyError):
        dependency_closure(MODULES_DEP, ("ext4",))
