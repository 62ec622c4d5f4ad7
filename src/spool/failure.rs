//! Remembers a storage failure across the restart that follows it. After the first the node stops
//! and recovers; when the storage fails once more soon after, another restart won't help: the node
//! stays, takes nothing, and lets people read what it holds.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

/// So long without a failure, and the last one is history.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// Why the spool takes nothing any more, once it does not.
pub struct Failure {
    dir: PathBuf,
    why: watch::Sender<Option<String>>,
}

impl Failure {
    pub fn new(dir: &Path) -> Failure {
        Failure { dir: dir.to_owned(), why: watch::Sender::new(None) }
    }

    pub fn why(&self) -> Option<String> {
        self.why.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<Option<String>> {
        self.why.subscribe()
    }

    /// Closes the spool for good: nothing is acknowledged after a storage failure.
    pub fn fail(&self, reason: &str) {
        remember(&self.dir, reason);
        self.why.send_if_modified(|why| {
            let first = why.is_none();
            if first {
                tracing::error!(reason, "storage failure: the node stops, nothing unsynced was acknowledged");
                *why = Some(reason.to_owned());
            }
            first
        });
    }
}

fn note(dir: &Path) -> PathBuf {
    dir.join("storage-failure")
}

/// Best effort: the storage fails just now. The page cache is enough, for only this boot counts.
fn remember(dir: &Path, reason: &str) {
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
