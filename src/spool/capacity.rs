//! How full the spool's file system is, and which file systems it refuses.

use std::io;
use std::path::Path;

/// Bytes and inodes of the file system, as last seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Capacity {
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// The fuller of bytes and inodes, 0 to 1. Recycled segments count as free.
    pub ratio: f64,
}

impl Capacity {
    /// `recyclable` bytes are allocated on disk and free for the log.
    pub fn of(dir: &Path, recyclable: u64) -> io::Result<Capacity> {
        let stat = rustix::fs::statvfs(dir)?;
        let total_bytes = stat.f_blocks * stat.f_frsize;
        let free_bytes = (stat.f_bavail * stat.f_frsize + recyclable).min(total_bytes);
        // Space that only root may use counts as used: the node does not run as root.
        let used = |free: u64, total: u64| if total == 0 { 0.0 } else { 1.0 - free as f64 / total as f64 };
        let ratio = used(free_bytes, total_bytes).max(used(stat.f_favail, stat.f_files));
        Ok(Capacity { total_bytes, free_bytes, ratio })
    }
}

/// Why this file system can't keep the promise; `None` when it can. Magic numbers: statfs(2).
pub fn unfit(dir: &Path) -> io::Result<Option<&'static str>> {
    let kind = rustix::fs::statfs(dir)?.f_type as u64;
    Ok(match kind {
        0x0102_1994 => Some("tmpfs: what it holds is gone after a power cut"),
        0x8584_58f6 => Some("ramfs: what it holds is gone after a power cut"),
        0x794c_7630 => Some("overlayfs: mount a volume for the spool"),
        0x6969 => Some("NFS: a sync there is a promise of somebody else's"),
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => Some("SMB: a sync there is a promise of somebody else's"),
        0x0102_1997 => Some("9p: a sync there is a promise of somebody else's"),
        _ => None,
    })
}
