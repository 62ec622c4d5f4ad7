//! Looks whether a conflict is one: the same object may have come in another transfer syntax. A
//! thread of its own, because it reads both objects whole; one at a time, oldest first.
//!
//! The committer writes down what it finds. Killed before that is durable, it compares again after
//! the next start.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::SpoolError;
use super::committer::Job;
use super::entry::{EntryId, Finding};
use super::reader::{CheckBy, ObjectReader};
use super::scrub::{self, Held};
use super::shared::Shared;
use crate::dicom::TransferSyntax;
use crate::dicom::comparison::{self, Comparison};
use crate::telemetry::metrics;

const TICK: Duration = Duration::from_secs(1);
/// Conflicts looked up at once.
const PAGE: usize = 100;

/// What comparing a conflict with the entry that it conflicts with has shown.
pub struct Compared {
    pub entry: EntryId,
    pub with: EntryId,
    /// `None`: they are equal.
    pub finding: Option<Finding>,
}

pub struct Comparer {
    shared: Arc<Shared>,
    wake: Receiver<()>,
    /// Looked at up to here in this run.
    after: EntryId,
}

/// Why there is no finding.
enum Trouble {
    /// It was freed meanwhile, or is no conflict any more.
    Settled,
    /// Something can't be read: no reason to free anything. Looked at again after the next start.
    Failed(SpoolError),
}

impl From<SpoolError> for Trouble {
    fn from(error: SpoolError) -> Trouble {
        match error {
            SpoolError::Freed(_) | SpoolError::Unknown(_) => Trouble::Settled,
            error => Trouble::Failed(error),
        }
    }
}

impl Comparer {
    pub fn new(shared: Arc<Shared>, wake: Receiver<()>) -> Comparer {
        Comparer { shared, wake, after: EntryId(0) }
    }

    /// Runs until the spool closes.
    pub fn run(mut self) {
        loop {
            match self.wake.recv_timeout(TICK) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.is_over() {
                return;
            }
            if let Err(error) = self.compare_all() {
                tracing::error!(%error, "conflicts can't be looked up");
            }
        }
    }

    fn is_over(&self) -> bool {
        self.shared.failure().is_some() || self.shared.is_closing()
    }

    /// Conflicts come in the order of their ids, so none is met twice.
    fn compare_all(&mut self) -> Result<(), SpoolError> {
        loop {
            let page = self.shared.queue.uncompared(self.after, PAGE)?;
            if page.is_empty() {
                return Ok(());
            }
            for id in page {
                let concluded = self.compare(id).and_then(|compared| Ok(self.conclude(compared)?));
                match concluded {
                    Ok(()) | Err(Trouble::Settled) => {}
                    Err(_) if self.is_over() => return Ok(()),
                    Err(Trouble::Failed(error)) => {
                        tracing::error!(entry = id.0, %error, "a conflict can't be compared; it stays one");
                    }
                }
                self.after = id;
            }
        }
    }

    fn conclude(&self, compared: Compared) -> Result<(), SpoolError> {
        let (entry, with) = (compared.entry.0, compared.with.0);
        match &compared.finding {
            None => tracing::info!(entry, with, "the same object in another transfer syntax: a duplicate"),
            Some(finding) => tracing::warn!(entry, with, %finding, "two objects with one SOP Instance UID"),
        }
        metrics::conflict_compared(match &compared.finding {
            None => "equal",
            Some(Finding::Different { .. }) => "different",
            Some(Finding::Undecidable { .. }) => "undecidable",
        });
        self.shared.ask(|answer| Job::Compared { compared, answer }).map(drop)
    }

    fn compare(&self, id: EntryId) -> Result<Compared, Trouble> {
        let second = ObjectReader::open(&self.shared, id, CheckBy::Sha256)?;
        let Some(with) = second.entry.conflict_with else { return Err(Trouble::Settled) };
        let finding = match ObjectReader::open(&self.shared, with, CheckBy::Sha256) {
            Ok(first) => self.look_at(&first, &second)?,
            Err(SpoolError::Freed(_) | SpoolError::Unknown(_)) => Some(freed(with)),
            Err(error) => return Err(Trouble::Failed(error)),
        };
        Ok(Compared { entry: id, with, finding })
    }

    /// `None` where the two are equal.
    fn look_at(&self, first: &ObjectReader, second: &ObjectReader) -> Result<Option<Finding>, Trouble> {
        let syntaxes = [first, second].map(|object| object.entry.transfer_syntax_uid.as_str());
        if syntaxes[0] == syntaxes[1] {
            return Ok(Some(Finding::Different { at: "its bytes, in the same transfer syntax".to_owned() }));
        }
        let [Some(syntax), Some(other_syntax)] = syntaxes.map(TransferSyntax::by_uid) else {
            return Ok(Some(undecidable("a transfer syntax that is not registered")));
        };
        // Read to their ends, both have the SHA-256 that was acknowledged: their readers see to it.
        let compared =
            comparison::compare((syntax, self.reading(first)), (other_syntax, self.reading(second)))?;
        Ok(match compared {
            // The first was read through the page cache, which may hold what the disk has lost.
            Comparison::Equal if scrub::look(&self.shared, first.entry.id)? != Held::Intact => {
                return Err(Trouble::Failed(SpoolError::Damaged {
                    id: first.entry.id,
                    detail: "the disk does not have its bytes".to_owned(),
                }));
            }
            Comparison::Equal => None,
            Comparison::Different(tag) => {
                Some(Finding::Different { at: format!("({:04X},{:04X})", tag.group(), tag.element()) })
            }
            Comparison::Undecidable(reason) => Some(undecidable(reason)),
        })
    }

    fn reading<'a>(&'a self, object: &'a ObjectReader) -> impl FnMut(usize) -> Result<Bytes, Trouble> + 'a {
        let mut offset = 0;
        move |most| {
            if self.is_over() {
                return Err(Trouble::Failed(SpoolError::Failed("the spool closes".to_owned())));
            }
            let bytes = object.read_data_set(offset, most).map_err(Trouble::Failed)?;
            offset += bytes.len() as u64;
            Ok(bytes)
        }
    }
}

fn undecidable(reason: &str) -> Finding {
    Finding::Undecidable { reason: reason.to_owned() }
}

pub fn freed(with: EntryId) -> Finding {
    Finding::Undecidable { reason: format!("the bytes of entry {with} were freed") }
}
