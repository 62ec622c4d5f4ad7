//! Looks after the log in the background: checkpoints the projection, frees what is proven to be
//! elsewhere, recycles segments, keeps spares ready, watches the disk.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::committer::Job;
use super::damage::is_unreadable;
use super::entry::{EntryId, LogPosition};
use super::segment::FIRST_RECORD;
use super::shared::Shared;
use super::{Cursor, SpoolError, failure};

const TICK: Duration = Duration::from_secs(1);
const CHECKPOINT: Duration = Duration::from_secs(3);
/// Spares kept ready: one to go on with, one that only facts may take.
const SPARES: usize = 2;
/// A survey of the log is not made again before, unless it grows.
const SURVEY: Duration = Duration::from_secs(60);
/// Entries freed at a time. Few in unit tests, as below.
const PURGE: usize = if cfg!(test) { 3 } else { 500 };
/// Entries looked at in one tick that stay: what only optional destinations have, say, may be millions.
const LOOKS: usize = if cfg!(test) { 5 } else { 5_000 };
/// The oldest segment is cleaned by copying when what lives in it is at most this part of it …
const MOSTLY_DEAD: f64 = 0.25;
/// … or, when space is short, this part.
const WORTH_IT: f64 = 0.75;
/// What the disk can't read is tried again so often …
const READ_AGAIN: Duration = Duration::from_secs(5 * 60);
/// … and counts as lost when no try of so long went well: a cable may have come loose.
const LOST_AFTER: Duration = Duration::from_secs(3600);

pub struct Maintenance {
    pub shared: Arc<Shared>,
    pub wake: Receiver<()>,
    /// The position up to which the projection is on disk.
    pub safe: LogPosition,
    pub checkpointed: Instant,
    /// Where the log ended at the last tick.
    pub seen_end: LogPosition,
    pub started: Instant,
    /// How full the disk was when entries were last freed before their retention was over, until a
    /// segment is recycled.
    pub freed_early_at: Option<f64>,
    /// The key of the entry that was looked at last for freeing, as long as there are more; and for freeing early.
    pub looked_until: [Option<Vec<u8>>; 2],
    pub survey: Option<Survey>,
    pub unreadable: Option<Unreadable>,
}

/// A segment that the disk could not read.
pub struct Unreadable {
    generation: u32,
    since: Instant,
    tried: Instant,
}

impl Unreadable {
    /// After another try that failed.
    fn again(before: Option<Unreadable>, generation: u32, now: Instant) -> Unreadable {
        // What was not tried for a while may have been readable meanwhile.
        let goes_on = |before: &Unreadable| {
            before.generation == generation && now.duration_since(before.tried) <= READ_AGAIN * 2
        };
        let since = before.filter(goes_on).map_or(now, |before| before.since);
        Unreadable { generation, since, tried: now }
    }

    fn is_lost(&self) -> bool {
        self.tried.duration_since(self.since) >= LOST_AFTER
    }

    /// Whether it is too early for another try.
    fn rests(&self, generation: u32) -> bool {
        self.generation == generation && self.tried.elapsed() < READ_AGAIN
    }
}

/// How much of the log lived when it was looked through last.
pub struct Survey {
    at: Instant,
    segments: usize,
    share: f64,
}

impl Maintenance {
    /// Runs until the spool closes.
    pub fn run(mut self) {
        loop {
            match self.wake.recv_timeout(TICK) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.shared.failure().is_some() || self.shared.is_closing() {
                return;
            }
            if let Err(error) = self.tick() {
                tracing::error!(%error, "spool maintenance");
            }
        }
    }

    fn tick(&mut self) -> Result<(), SpoolError> {
        self.shared.room_now();
        self.shared.disk.take_reserve();
        self.purge()?;
        if self.checkpointed.elapsed() >= CHECKPOINT {
            self.checkpoint()?;
            self.recycle()?;
        }
        self.tend_spares();
        self.fill_spares();
        if self.shared.failed_before.load(Ordering::Relaxed)
            && self.started.elapsed() >= failure::FORGOTTEN_AFTER
        {
            self.shared.failed_before.store(false, Ordering::Relaxed);
            failure::forget(&self.shared.options.dir);
        }
        Ok(())
    }

    /// Keeps as many spares as are soon needed: makes them while there is room, and gives back
    /// what a long log has left when large objects may need it.
    fn tend_spares(&self) {
        let segments = &self.shared.segments;
        while segments.spare_count() < SPARES {
            if !self.shared.prepare_segment() {
                break;
            }
        }
        let short = self.shared.disk.ratio_for_files() >= self.shared.options.high_watermark;
        while short && segments.spare_count() > SPARES {
            if let Err(error) = segments.discard_spare() {
                tracing::warn!(%error, "a spare segment of the log can't be removed");
                return;
            }
        }
    }

    /// Writes zeros to spares while the log rests. One that can't be written is removed.
    fn fill_spares(&mut self) {
        let end = *self.shared.durable.borrow();
        let rested = std::mem::replace(&mut self.seen_end, end) == end;
        while rested && *self.shared.durable.borrow() == end && !self.shared.is_closing() {
            match self.shared.segments.fill_step() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "a spare segment of the log can't be written; it is removed");
                    return;
                }
            }
        }
    }

    fn is_short(&self) -> bool {
        self.shared.disk.last().ratio >= self.shared.options.high_watermark
    }

    fn checkpoint(&mut self) -> Result<(), SpoolError> {
        let index = LogPosition(self.shared.index_cursor.load(Ordering::Acquire));
        let route = LogPosition(self.shared.route_cursor.load(Ordering::Acquire));
        self.shared.queue.set_cursor(Cursor::Index, index)?;
        self.shared.queue.set_cursor(Cursor::Route, route)?;
        // A sync that failed is never tried again: that it then succeeds says nothing.
        self.safe = self.shared.queue.checkpoint().inspect_err(|error| {
            self.shared.fail(&format!("the queue can't be synced: {error}"));
        })?;
        self.checkpointed = Instant::now();
        Ok(())
    }

    /// Frees entries whose deliveries are all settled, at least one required one proven, and that
    /// have been kept long enough, or, when space is short, not that long, longest first. Nothing
    /// expires from age alone. Goes round: what can't be freed must neither be looked at all the time nor hide
    /// what comes after it.
    fn purge(&mut self) -> Result<(), SpoolError> {
        let now = self.shared.clock.now();
        // Freeing early goes on only while it helps: what is freed may lie in a segment that
        // something else holds up.
        let ratio = self.shared.disk.last().ratio;
        let short = self.is_short() && self.freed_early_at.is_none_or(|before| ratio < before);
        let retention = if short { Duration::ZERO } else { self.shared.options.retention };
        let before = crate::clock::Millis(now.0.saturating_sub(retention.as_millis() as u64));
        let policies = self.shared.policies.read().clone();
        let looked_until = &mut self.looked_until[usize::from(short)];
        let mut kept = 0;
        loop {
            let resting = self.shared.queue.resting(before, looked_until.as_deref(), PURGE)?;
            *looked_until = resting.last().map(|(key, _)| key.clone());
            if resting.is_empty() {
                return Ok(());
            }
            let mut ids = Vec::new();
            for (_, id) in resting {
                let Some(state) = self.shared.queue.state(id)? else { continue };
                if state.is_purgeable(|destination| policies.get(destination).copied()) {
                    ids.push(id);
                } else {
                    kept += 1;
                }
            }
            let frees = !ids.is_empty();
            if frees {
                self.shared.ask(|answer| Job::Free { ids, answer })?;
            }
            if frees && short {
                self.freed_early_at = Some(ratio);
            }
            if kept >= LOOKS || (frees && short) {
                return Ok(());
            }
        }
    }

    /// Recycles segments from the oldest on, while nothing in them is needed: no entry lives there,
    /// and projection (on disk), index and router are past them. In order, so that what is left of
    /// the log is always its unbroken end.
    fn recycle(&mut self) -> Result<(), SpoolError> {
        while let Some(oldest) = self.shared.segments.oldest() {
            let generation = oldest.generation;
            let size = oldest.size;
            drop(oldest);
            let next = LogPosition::at(generation + 1, FIRST_RECORD);
            if self.safe < next || self.shared.slowest_cursor() < next {
                return Ok(());
            }
            let (live, bytes) = self.shared.queue.live_in(generation)?;
            if !live.is_empty() {
                return self.clean(generation, &live, bytes as f64 / size as f64);
            }
            if !self.shared.segments.recycle_oldest() {
                return Ok(());
            }
            self.freed_early_at = None;
            // What was dead may have been in it: the next one is not copied for what is gone already.
            self.survey = None;
        }
        Ok(())
    }

    /// Copies what lives in the oldest segment forward, when that is worth it; the segment is
    /// recycled after the next checkpoint.
    fn clean(&mut self, generation: u32, live: &[EntryId], share: f64) -> Result<(), SpoolError> {
        let short = self.is_short();
        let worth = if short { WORTH_IT } else { MOSTLY_DEAD };
        let alone = self.shared.segments.live_count() <= 2;
        let is_readable = live.iter().any(|id| !self.shared.damage.has(*id));
        if (alone && !short) || (share > worth && is_readable && self.share_of_log()? > worth) {
            return Ok(());
        }
        if self.unreadable.as_ref().is_some_and(|unreadable| unreadable.rests(generation)) {
            return Ok(());
        }
        let (mut damaged, mut unreadable) = (Vec::new(), Vec::new());
        for id in live {
            match self.shared.ask(|answer| Job::Copy { id: *id, answer }) {
                Ok(_) | Err(SpoolError::Freed(_)) => {}
                Err(SpoolError::Damaged { id, detail }) => damaged.push((id, detail)),
                Err(SpoolError::Io { source, .. }) if is_unreadable(&source) => {
                    unreadable.push((*id, "the disk can't read it".to_owned()));
                }
                Err(error) => return Err(error),
            }
        }
        let all_failed = damaged.len() + unreadable.len() == live.len();
        self.unreadable = match unreadable.is_empty() {
            true => None,
            false => Some(Unreadable::again(self.unreadable.take(), generation, Instant::now())),
        };
        let may_pass = self.unreadable.as_ref().is_some_and(|unreadable| !unreadable.is_lost());
        if may_pass {
            tracing::error!(
                generation,
                objects = unreadable.len(),
                "the disk can't read objects in this segment of the log; they are tried again"
            );
        }
        if all_failed && !may_pass {
            damaged.append(&mut unreadable);
            self.set_aside(generation, &damaged)?;
        }
        Ok(())
    }

    /// How much of the log lives: what stays for long in the oldest segment must not keep all that is dead behind it.
    /// Asked anew when the log has grown by a quarter, or after a while: it takes a walk through all entries.
    fn share_of_log(&mut self) -> Result<f64, SpoolError> {
        let segments = self.shared.segments.from(0);
        if let Some(survey) = &self.survey
            && survey.at.elapsed() < SURVEY
            && segments.len() * 4 < survey.segments * 5 + 4
        {
            return Ok(survey.share);
        }
        let size: u64 = segments.iter().map(|segment| segment.size).sum();
        let share = self.shared.queue.live_bytes()? as f64 / size.max(1) as f64;
        self.survey = Some(Survey { at: Instant::now(), segments: segments.len(), share });
        Ok(share)
    }

    /// Nothing readable is left in the oldest segment: it goes to `review/` as it is, lest it hold
    /// up the log behind it. Its entries stay, and stay damaged.
    fn set_aside(&self, generation: u32, damaged: &[(EntryId, String)]) -> Result<(), SpoolError> {
        for (entry, detail) in damaged {
            self.shared.damage.note(*entry, detail);
        }
        tracing::error!(generation, "nothing in this segment of the log is readable; it goes to review/");
        let review = self.shared.options.dir.join("review");
        self.shared
            .segments
            .set_aside(generation, &review)
            .map_err(|source| SpoolError::from_io(review, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_disk_can_not_read_is_lost_only_when_it_could_not_for_an_hour() {
        let begun = Instant::now();
        let tries = |count: u32, every: Duration| {
            let again = |before, n| Some(Unreadable::again(before, 7, begun + every * n));
            (0..count).fold(None, again).unwrap()
        };
        assert!(tries(1, READ_AGAIN).rests(7) && !tries(1, READ_AGAIN).rests(8));
        assert!(!tries(12, READ_AGAIN).is_lost());
        assert!(tries(13, READ_AGAIN).is_lost());
        assert!(!tries(13, READ_AGAIN * 3).is_lost(), "nobody looked in between");
        let after = begun + LOST_AFTER + READ_AGAIN;
        assert!(!Unreadable::again(Some(tries(13, READ_AGAIN)), 8, after).is_lost(), "another segment");
    }
}
