//! What was acknowledged and can't be read any more. Each object is told of once, in the log, and
//! counted until it is received anew or a person has seen to it.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use parking_lot::Mutex;

use super::entry::EntryId;
use super::state::EntryState;

/// So many are counted, and no more.
const MOST: usize = 100_000;
/// Files in `review/` that name losses of which the projection knows nothing any more.
const LIST: &str = "lost-";

/// Whether the disk itself can't read it: a bad sector, most often.
pub fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

#[derive(Debug, Default)]
pub struct Damage {
    known: Mutex<BTreeSet<EntryId>>,
    /// Lines in the lists of `review/`.
    listed: u64,
}

impl Damage {
    /// With what recovery has found, and what was listed before.
    pub fn open(review: &Path, found: &[EntryId]) -> io::Result<Damage> {
        let mut listed = 0;
        for file in std::fs::read_dir(review)? {
            let file = file?;
            if file.file_name().to_string_lossy().starts_with(LIST) {
                listed += std::fs::read_to_string(file.path())?.lines().count() as u64;
            }
        }
        let known = found.iter().take(MOST).copied().collect();
        Ok(Damage { known: Mutex::new(known), listed })
    }

    pub fn note(&self, entry: EntryId, detail: &str) {
        let mut known = self.known.lock();
        if known.len() < MOST && known.insert(entry) {
            tracing::error!(%entry, detail, "an acknowledged object can't be read any more; see `relaypacs spool verify`");
        }
    }

    pub fn has(&self, entry: EntryId) -> bool {
        self.known.lock().contains(&entry)
    }

    /// It was freed: another copy is there.
    pub fn forget(&self, entry: EntryId) {
        self.known.lock().remove(&entry);
    }

    pub fn count(&self) -> u64 {
        self.known.lock().len() as u64 + self.listed
    }
}

/// Lists losses in `review/`: entry, SOP Instance UID, SHA-256, and where each was delivered.
pub fn list(review: &Path, lost: &[EntryState]) -> io::Result<()> {
    let mut lines = String::new();
    for state in lost {
        let deliveries: Vec<String> = state
            .deliveries
            .iter()
            .map(|delivery| format!("{}:{:?}", delivery.destination, delivery.state))
            .collect();
        lines += &format!(
            "{}\t{}\t{}\t{}\n",
            state.id,
            state.sop_instance_uid,
            state.data_set_sha256,
            deliveries.join(",").to_lowercase()
        );
    }
    std::fs::write(review.join(format!("{LIST}{}.tsv", ulid::Ulid::new())), lines)
}
