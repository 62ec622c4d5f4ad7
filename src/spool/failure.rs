//! Remembers a storage failure across the restart that follows it. After the first the node stops
//! and recovers; when the storage fails once more soon after, another restart won't help: the node
//! stays, takes nothing, and lets people read what it holds.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// So long without a failure, and the last one is history.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

fn note(dir: &Path) -> PathBuf {
    dir.join("storage-failure")
}

/// Best effort: the storage fails just now. The page cache is enough, for only this boot counts.
pub fn remember(dir: &Path, reason: &str) {
    if let Err(error) = std::fs::write(note(dir), reason) {
        tracing::warn!(%error, "the storage failure can't be noted");
    }
}

/// Whether the storage failed in an earlier run, not long of run time ago.
pub fn is_remembered(dir: &Path) -> bool {
    note(dir).exists()
}

/// The node has run long enough without another.
pub fn forget(dir: &Path) {
    match std::fs::remove_file(note(dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "the note of a storage failure can't be removed");
        }
        _ => {}
    }
}
