//! What a destination lists before our first attempt, and after one that got no answer; and what
//! becomes of an object whose destination does not say.
//!
//! Who can't be asked is believed: there is no other way to deliver there. Who could be asked and
//! does not answer is tried again a few times, and then gets its objects all the same: what fails
//! is a question, and the doubt that it leaves only costs a comparison.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Lane, Taken};
use crate::config::Verify;
use crate::dicom::Uid;
use crate::forward::destination::Failure;
use crate::forward::verify;
use crate::spool::{Durability, Fact, Outcome, SpoolError};

/// Questions without an answer, in a row, before objects go without one.
const PATIENCE: u32 = 3;
/// How long it is left alone then.
const PAUSE: Duration = Duration::from_secs(600);
/// How long a destination that does not offer the service is not asked for it.
const NOT_OFFERED: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    Ask,
    /// Its acknowledgement will be taken as one of these bytes.
    Believe,
    /// Only a comparison will prove what it acknowledges.
    Doubt,
}

#[derive(Debug, Default)]
pub struct Listing {
    unanswered: u32,
    until: Option<(Instant, Course)>,
}

impl Listing {
    pub fn course(&self, now: Instant) -> Course {
        match self.until {
            Some((until, course)) if now < until => course,
            _ => Course::Ask,
        }
    }

    pub fn answered(&mut self) {
        *self = Listing::default();
    }

    /// The destination as a whole is down: it gets its chances anew.
    pub fn attempt_failed(&mut self) {
        if !matches!(self.until, Some((_, Course::Believe))) {
            *self = Listing::default();
        }
    }

    /// `true` if that is news.
    pub fn not_offered(&mut self, now: Instant) -> bool {
        let known = matches!(self.until, Some((_, Course::Believe)));
        *self = Listing { unanswered: 0, until: Some((now + NOT_OFFERED, Course::Believe)) };
        !known
    }

    /// What to do after one more question without an answer.
    pub fn unanswered(&mut self, now: Instant) -> Course {
        self.unanswered = self.unanswered.saturating_add(1);
        if self.unanswered < PATIENCE {
            return Course::Ask;
        }
        self.until = Some((now + PAUSE, Course::Doubt));
        Course::Doubt
    }
}

impl Lane {
    /// What to do about objects whose UIDs the destination may list already.
    pub fn course(&self) -> Course {
        match self.destination.verify {
            Verify::None => Course::Believe,
            _ => self.listing.lock().course(Instant::now()),
        }
    }

    /// Notes which of them it lists. What it does not list is durable before anything is sent: after
    /// a crash it would list what we sent ourselves, and we would doubt that.
    pub async fn note_listed(&self, taken: &mut [Taken], listed: &HashSet<Uid>) -> Result<(), SpoolError> {
        self.listing.lock().answered();
        let mut entries = Vec::new();
        for work in taken.iter_mut().filter(|work| !work.delivery.unlisted) {
            if listed.contains(&work.entry.key.sop_instance_uid) {
                work.doubt = Some(verify::LISTED_BEFORE);
            } else {
                work.delivery.unlisted = true;
                entries.push(work.delivery.entry);
            }
        }
        if entries.is_empty() {
            return Ok(());
        }
        let fact = Fact::Unlisted { entries, destination: self.name().to_owned(), at: self.clock.now() };
        let position = self.spool.append(vec![fact], Durability::Synced).await?;
        self.last_answer.fetch_max(position.0, Ordering::AcqRel);
        Ok(())
    }

    /// What went out whole, got no answer and is listed now has arrived, for before our first attempt it
    /// was not listed. It need not be sent again.
    pub async fn note_arrived(
        &self,
        taken: &mut Vec<Taken>,
        listed: &HashSet<Uid>,
    ) -> Result<(), SpoolError> {
        let arrived = |work: &mut Taken| {
            let is_listed = listed.contains(&work.entry.key.sop_instance_uid);
            is_listed && work.delivery.unlisted && self.may_have_arrived(work)
        };
        let arrived: Vec<Taken> = taken.extract_if(.., arrived).collect();
        for work in arrived {
            self.delivered(work, Outcome::Sent, "found").await?;
        }
        Ok(())
    }

    pub fn listing_not_offered(&self, reason: &str) {
        if self.listing.lock().not_offered(Instant::now()) {
            let destination = self.name();
            tracing::warn!(
                destination,
                reason,
                "can't be asked what it lists; what it acknowledges is believed"
            );
        }
    }

    /// `true`: they are to be sent all the same, in doubt.
    pub fn listing_not_answered(&self, taken: &mut [Taken], reason: String) -> bool {
        if self.listing.lock().unanswered(Instant::now()) != Course::Doubt {
            self.failed(&Failure::new(reason), None);
            return false;
        }
        let destination = self.name();
        tracing::warn!(destination, reason, "does not say what it lists; what it acknowledges is compared");
        let unasked = taken.iter_mut().filter(|work| !work.delivery.unlisted);
        unasked.for_each(|work| work.doubt = Some(verify::NOT_ANSWERED));
        true
    }

    /// An attempt failed for the destination's sake: that it did not answer before was no fault of
    /// the question.
    pub fn attempt_failed(&self, failure: &Failure, blamed: Option<&Taken>) {
        self.listing.lock().attempt_failed();
        self.failed(failure, blamed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_fails_is_repeated_and_then_replaced_by_doubt_for_a_while() {
        let (mut listing, now) = (Listing::default(), Instant::now());
        let courses: Vec<Course> = (0..PATIENCE).map(|_| listing.unanswered(now)).collect();
        assert_eq!(courses, [Course::Ask, Course::Ask, Course::Doubt]);
        assert_eq!(listing.course(now), Course::Doubt);
        assert_eq!(listing.course(now + PAUSE), Course::Ask);
        assert_eq!(listing.unanswered(now + PAUSE), Course::Doubt, "it has had its chances");
        listing.attempt_failed();
        assert_eq!(listing.course(now), Course::Ask, "it was down");
        listing.answered();
        assert_eq!((listing.course(now), listing.unanswered(now)), (Course::Ask, Course::Ask));
    }

    #[test]
    fn who_offers_no_listing_is_believed_and_told_of_once() {
        let (mut listing, now) = (Listing::default(), Instant::now());
        assert!(listing.not_offered(now));
        assert_eq!(listing.course(now), Course::Believe);
        assert!(!listing.not_offered(now + NOT_OFFERED));
    }
}
