//! What only the rows still know. A queue that was made anew from the log can't tell what the log has lost; the rows can:
//! what counts as held there, and is in neither queue nor log, is missing.

use std::collections::HashSet;

use super::catalogue;
use crate::spool::{EntryId, LogPosition, Missing, Spool, SpoolError};
use crate::store::{Store, StoreError};

/// Asks the rows page by page, each twice: what the queue does not know may have been freed, which the index hears later.
pub(super) struct Inquiry {
    /// Of the page after `before`: what the queue did not know.
    doubtful: Vec<Missing>,
    before: EntryId,
    /// Where that page ends.
    after: EntryId,
    /// Once the index is here, it knows what had been freed by then.
    due: LogPosition,
}

/// What the rows say.
pub(super) struct Told {
    /// For sure.
    pub missing: Vec<Missing>,
    /// The next ones that count as held.
    pub page: Vec<Missing>,
}

impl Inquiry {
    /// `None` where the queue has seen all that was ever acknowledged.
    pub fn of(spool: &Spool) -> Option<Inquiry> {
        let start = EntryId(0);
        let due = spool.durable_position();
        let inquiry = Inquiry { doubtful: Vec::new(), before: start, after: start, due };
        spool.recovery().asks_rows.then_some(inquiry)
    }

    pub fn is_due(&self, position: LogPosition) -> bool {
        self.due <= position
    }

    /// What is missing for sure, and the next page.
    pub async fn ask(&self, store: &Store) -> Result<Told, StoreError> {
        let page = catalogue::held_after(store.reader(), self.after).await?;
        if self.doubtful.is_empty() {
            return Ok(Told { missing: Vec::new(), page });
        }
        let still_held = catalogue::held_after(store.reader(), self.before).await?;
        let still_held: HashSet<EntryId> = still_held.iter().map(|held| held.entry).collect();
        let missing = self.doubtful.iter().filter(|doubtful| still_held.contains(&doubtful.entry));
        Ok(Told { missing: missing.cloned().collect(), page })
    }

    /// About the next page; `None` after the last.
    pub async fn turn(&self, page: Vec<Missing>, spool: &Spool) -> Result<Option<Inquiry>, SpoolError> {
        let Some(last) = page.last().map(|held| held.entry) else { return Ok(None) };
        let doubtful = spool.unknown(page).await?;
        Ok(Some(Inquiry { doubtful, before: self.after, after: last, due: spool.durable_position() }))
    }
}
