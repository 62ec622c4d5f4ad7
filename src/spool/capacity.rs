//! How full the spool's file system is, what is kept back for when it is full, and which file
//! systems the spool refuses.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Bytes kept back for what must go on when the disk is full: purges, deliveries, the projection.
const RESERVE: u64 = 256 << 20;
/// … on a small disk, this part of it.
const RESERVE_PART: u64 = 32;
/// How long the disk counts as full after something did not fit, though it is not.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Bytes and inodes of the file system, as last seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Capacity {
    /// Used, or free for us.
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// The fuller of bytes and inodes, 0 to 1. The reserve counts as used.
    pub ratio: f64,
}

impl Capacity {
    /// `recyclable` bytes are allocated and free for us, `withheld` bytes free and not for us.
    fn of(dir: &Path, recyclable: u64, withheld: u64) -> io::Result<Capacity> {
        let stat = rustix::fs::statvfs(dir)?;
        // As df counts: space that is neither used nor ours to use (root's, a quota's) is no part of
        // the whole.
        let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
        let available = stat.f_bavail * stat.f_frsize;
        let total_bytes = used + available;
        let free_bytes = (available + recyclable).min(total_bytes).saturating_sub(withheld);
        let inodes = stat.f_files - stat.f_ffree + stat.f_favail;
        let ratio = used_share(free_bytes, total_bytes).max(used_share(stat.f_favail, inodes));
        Ok(Capacity { total_bytes, free_bytes, ratio })
    }

    /// How full it will be when so many bytes more are used.
    fn ratio_after(&self, bytes: u64) -> f64 {
        self.ratio.max(used_share(self.free_bytes.saturating_sub(bytes), self.total_bytes))
    }

    /// Free bytes that are clearly more than now: a fiftieth of the disk more.
    fn clearly_more(&self) -> u64 {
        self.free_bytes + (self.total_bytes / 50).max(1 << 20)
    }
}

fn used_share(free: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { 1.0 - free as f64 / total as f64 }
}

/// The disk under the spool. Whatever takes space for objects asks it first, so that the
/// projection does not find the disk full: sled does not survive that.
pub struct Disk {
    dir: PathBuf,
    /// The watermark from which nothing new is taken.
    critical: f64,
    state: Mutex<State>,
}

struct State {
    last: Capacity,
    full: Option<Full>,
    reserve_size: u64,
    reserve_held: u64,
}

/// The disk counts as full.
struct Full {
    /// The free bytes from which it does not.
    wanted: u64,
    since: Instant,
}

impl Full {
    /// Something did not fit though there seemed to be room: perhaps a quota, or somebody else's file
    /// that is gone by now. Only another try can tell.
    fn is_doubtful(&self) -> bool {
        self.since.elapsed() >= TRY_AGAIN
    }
}

impl Disk {
    /// `recyclable` here and below: bytes of spare segments.
    pub fn open(dir: &Path, critical: f64, recyclable: u64) -> io::Result<Disk> {
        let reserve_held = std::fs::metadata(reserve_path(dir)).map_or(0, |file| file.len());
        let reserve_size = RESERVE.min(Capacity::of(dir, 0, 0)?.total_bytes / RESERVE_PART);
        let last = Capacity::of(dir, recyclable, reserve_size.saturating_sub(reserve_held))?;
        let state = Mutex::new(State { last, full: None, reserve_size, reserve_held });
        let disk = Disk { dir: dir.to_owned(), critical, state };
        disk.look(recyclable);
        disk.take_reserve();
        Ok(disk)
    }

    /// How full the disk is at this moment (a fast sender fills it between two looks of
    /// maintenance), and whether it counts as full: from the critical watermark, or a refusal for
    /// want of room, until clearly more is free.
    pub fn look(&self, recyclable: u64) -> (Capacity, bool) {
        let mut state = self.state.lock();
        state.last = self.measure(&state, recyclable);
        let critical = state.last.ratio >= self.critical;
        match &state.full {
            None if critical => self.begin_full(&mut state),
            Some(full) if !critical && (state.last.free_bytes >= full.wanted || full.is_doubtful()) => {
                state.full = None;
            }
            _ => {}
        }
        (state.last, state.full.is_some())
    }

    /// As the last look found it.
    pub fn last(&self) -> Capacity {
        self.state.lock().last
    }

    /// Something did not fit.
    pub fn note_full(&self) {
        self.begin_full(&mut self.state.lock());
    }

    /// Whether a file of so many bytes leaves the disk below the critical watermark. Spare segments
    /// are no room for files.
    pub fn fits(&self, bytes: u64) -> bool {
        let state = self.state.lock();
        state.full.is_none() && self.measure(&state, 0).ratio_after(bytes) < self.critical
    }

    /// How full it is for files, 0 to 1.
    pub fn ratio_for_files(&self) -> f64 {
        self.measure(&self.state.lock(), 0).ratio
    }

    fn measure(&self, state: &State, recyclable: u64) -> Capacity {
        let withheld = state.reserve_size.saturating_sub(state.reserve_held);
        Capacity::of(&self.dir, recyclable, withheld).unwrap_or(state.last)
    }

    /// The reserve goes to all but new objects.
    fn begin_full(&self, state: &mut State) {
        if state.full.is_some() {
            return;
        }
        state.full = Some(Full { wanted: state.last.clearly_more(), since: Instant::now() });
        match std::fs::remove_file(reserve_path(&self.dir)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "the spool's reserve can't be given up");
            }
            _ => state.reserve_held = 0,
        }
    }

    /// Takes the reserve back once the disk is not full. May take a moment: not for the runtime.
    pub fn take_reserve(&self) {
        let mut state = self.state.lock();
        if state.full.is_some() || state.reserve_held == state.reserve_size {
            return;
        }
        match allocate(&reserve_path(&self.dir), state.reserve_size) {
            Ok(()) => state.reserve_held = state.reserve_size,
            Err(error) => tracing::debug!(%error, "no room for the spool's reserve"),
        }
    }
}

fn reserve_path(dir: &Path) -> PathBuf {
    dir.join("reserve")
}

/// Space that is taken and holds nothing.
fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
    file.set_len(bytes)
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
