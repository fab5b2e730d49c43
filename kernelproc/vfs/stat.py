"""What stat(2), statx(2) and statfs(2) show of a node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.kernelproc.registry import major, minor
from polynix.kernelproc.uapi import structs
from polynix.kernelproc.uapi.stat import STATX_ATTR_MOUNT_ROOT, STATX_BASIC_STATS, STATX_BTIME, STATX_MNT_ID

if TYPE_CHECKING:
    from polynix.kernelproc.vfs.fs_node import FsNode

_pack_stat: Final = structs.stat.FORMAT.pack
_pack_statx: Final = structs.statx.FORMAT.pack
_pack_statfs: Final = structs.statfs.FORMAT.pack

_NS: Final = 1_000_000_000


def stat_bytes(node: FsNode) -> bytes:
    """``struct stat`` of ``node``, refreshed by its file system first."""
    node.ops.refresh(node)
    atime, mtime, ctime = node.atime_ns, node.mtime_ns, node.ctime_ns
    return _pack_stat(
        node.fs.dev, node.ino, node.nlink, node.mode, node.uid, node.gid, node.rdev, node.size, node.blksize, node.blocks,
        atime // _NS, atime % _NS, mtime // _NS, mtime % _NS, ctime // _NS, ctime % _NS,
    )  # fmt: skip


def statx_bytes(node: FsNode, mount_id: int = 0, is_mount_root: bool = False) -> bytes:
    """``struct statx`` of ``node``: the basic fields, birth time and mount id."""
    node.ops.refresh(node)
    mask = STATX_BASIC_STATS | STATX_BTIME | (STATX_MNT_ID if mount_id else 0)
    return _pack_statx(
        mask, node.blksize, STATX_ATTR_MOUNT_ROOT if is_mount_root else 0, node.nlink, node.uid, node.gid, node.mode, node.ino, node.size, node.blocks,
        STATX_ATTR_MOUNT_ROOT,
        node.atime_ns // _NS, node.atime_ns % _NS, node.btime_ns // _NS, node.btime_ns % _NS,
        node.ctime_ns // _NS, node.ctime_ns % _NS, node.mtime_ns // _NS, node.mtime_ns % _NS,
        major(node.rdev), minor(node.rdev), major(node.fs.dev), minor(node.fs.dev), mount_id, 0, 0,
    )  # fmt: skip


_ST_VALID: Final = 0x20
_MOUNT_STATFS_FLAGS: Final = ((1, 1), (2, 2), (4, 4), (8, 8), (1024, 0x400), (2048, 0x800), (1 << 21, 0x1000), (256, 0x2000))


def statfs_bytes(node: FsNode, mount_flags: int = 0) -> bytes:
    """``struct statfs`` of the file system of ``node``; ``mount_flags`` are the MS_* of the mount it is seen through."""
    fields = node.fs.ops.statfs(node.fs)
    flags = fields.get("f_flags", 0) | _ST_VALID
    for mount_flag, statfs_flag in _MOUNT_STATFS_FLAGS:
        if mount_flags & mount_flag:
            flags |= statfs_flag
    get = fields.get
    fsid = get("f_fsid", node.fs.dev)
    return _pack_statfs(
        get("f_type", 0), get("f_bsize", 4096), get("f_blocks", 0), get("f_bfree", 0), get("f_bavail", 0), get("f_files", 0), get("f_ffree", 0),
        fsid & 0x7FFFFFFF, fsid >> 32 & 0x7FFFFFFF, get("f_namelen", 255), get("f_frsize", 4096), flags,
    )  # fmt: skip
