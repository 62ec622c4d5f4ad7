//! Reads everything that is held once a week, from the disk, and compares its SHA-256: rot is found
//! while another copy may still exist, not when the object is wanted.

use std::io;
use std::time::{Duration, Instant};

use super::disk_view::DiskView;
use super::entry::EntryId;
use super::shared::Shared;
use super::{SpoolError, damage, scan};
use crate::clock::Millis;

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes read in a second at most: it must not be noticed.
const PACE: u64 = 8 << 20;
/// Entries looked up, and remembered as read, at once.
const PAGE: usize = 64;
const TICK: Duration = Duration::from_millis(200);
/// After an error.
const LATER: Duration = Duration::from_secs(60);

/// A round of reading everything; kept in the projection.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub struct Round {
    began: Millis,
    /// The last entry read.
    after: Option<EntryId>,
    done: bool,
}

/// Scrubs until the spool closes. A start begins a round at once: something may have happened to
/// the files meanwhile.
pub fn run(shared: &Shared) {
    if let Ok(Some(round)) = shared.queue.scrub_round()
        && round.done
        && let Err(error) = shared.queue.forget_scrub_round()
    {
        tracing::warn!(%error, "the scrub of the spool goes on where it was");
    }
    while pause(shared, TICK) {
        if let Err(error) = next_page(shared) {
            tracing::warn!(%error, "the scrub of the spool waits");
            pause(shared, LATER);
        }
    }
}

/// Reads the next entries of the round, or of a new one when a week is over, and remembers that.
fn next_page(shared: &Shared) -> Result<(), SpoolError> {
    let now = shared.clock.now();
    let mut round = match shared.queue.scrub_round()? {
        Some(round) if !round.done => round,
        Some(round) if now.since(round.began) < WEEK => return Ok(()),
        _ => Round { began: now, after: None, done: false },
    };
    let entries = shared.queue.entries(round.after, PAGE)?;
    for state in &entries {
        let begun = Instant::now();
        look(shared, state.id)?;
        let share = Duration::from_secs_f64(state.size as f64 / PACE as f64);
        if !pause(shared, share.saturating_sub(begun.elapsed())) {
            return Ok(());
        }
    }
    round.after = entries.last().map(|state| state.id).or(round.after);
    round.done = entries.len() < PAGE;
    Ok(shared.queue.set_scrub_round(&round)?)
}

/// What the disk has of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    Intact,
    Damaged,
    /// Freed meanwhile.
    Gone,
}

/// Whether the disk has the entry's bytes as they were acknowledged; notes it when not, and when
/// it has them again. Reads them all.
pub fn look(shared: &Shared, id: EntryId) -> Result<Held, SpoolError> {
    let held = match held(shared, id) {
        Err(SpoolError::Io { source, .. }) if damage::is_unreadable(&source) => Held::Damaged,
        held => held?,
    };
    match held {
        Held::Intact => shared.damage.forget(id),
        Held::Damaged => shared.damage.note(id, "the disk does not have its bytes"),
        Held::Gone => {}
    }
    Ok(held)
}

fn held(shared: &Shared, id: EntryId) -> Result<Held, SpoolError> {
    let (segment, record) = match shared.record(id) {
        Err(SpoolError::Freed(_) | SpoolError::Unknown(_)) => return Ok(Held::Gone),
        Err(SpoolError::Damaged { .. }) => return Ok(Held::Damaged),
        found => found?,
    };
    let header = &record.header;
    let (path, offset) = match &record.meta.large {
        Some(name) => (shared.large_path(name), 0),
        None => (segment.path.clone(), record.part10_offset() + u64::from(header.prefix_length)),
    };
    let disk = match DiskView::of_synced(&path, header.data_set_length) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let freed = matches!(shared.locate(id), Err(SpoolError::Freed(_)));
            return Ok(if freed { Held::Gone } else { Held::Damaged });
        }
        opened => opened,
    };
    let is_intact = disk
        .and_then(|disk| scan::has_digest(&disk, offset, header.data_set_length, &header.data_set_sha256))
        .map_err(|source| SpoolError::from_io(path, source))?;
    Ok(if is_intact { Held::Intact } else { Held::Damaged })
}

/// False when the spool closes meanwhile.
fn pause(shared: &Shared, length: Duration) -> bool {
    let until = Instant::now() + length;
    loop {
        if shared.is_closing() || shared.failure().is_some() {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(TICK));
    }
}
