//! What one destination's workers remember between attempts: which objects are under way, which
//! wait after a transient failure, which got no answer, and when others were taken. In memory only: the log keeps what
//! must survive, and forgetting this costs an attempt, never an object. Pure.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::retry::RetryPolicy;
use crate::spool::EntryId;

/// Objects held back at most; beyond that the destination as a whole is blamed.
const MOST_HELD: usize = 1000;

#[derive(Debug, Clone, Copy)]
struct Hold {
    failures: u32,
    until: Instant,
}

#[derive(Debug)]
pub struct Attempts {
    policy: RetryPolicy,
    began: Instant,
    in_flight: HashSet<EntryId>,
    held: HashMap<EntryId, Hold>,
    first_refused: HashMap<EntryId, Instant>,
    alone: HashSet<EntryId>,
    unanswered: HashSet<EntryId>,
    last_taken: Option<Instant>,
}

impl Attempts {
    pub fn new(policy: RetryPolicy, began: Instant) -> Self {
        Self {
            policy,
            began,
            in_flight: HashSet::new(),
            held: HashMap::new(),
            first_refused: HashMap::new(),
            alone: HashSet::new(),
            unanswered: HashSet::new(),
            last_taken: None,
        }
    }

    /// Takes an object in hand, unless somebody has it or it must wait.
    pub fn start(&mut self, entry: EntryId, now: Instant) -> bool {
        if self.held.get(&entry).is_some_and(|hold| now < hold.until) {
            return false;
        }
        self.in_flight.insert(entry)
    }

    pub fn finish(&mut self, entry: EntryId) {
        self.in_flight.remove(&entry);
    }

    /// How many due objects may be passed over: what a search for work must look beyond.
    pub fn passed_over(&self) -> usize {
        self.in_flight.len() + self.held.len()
    }

    pub fn next_release(&self, now: Instant) -> Option<Instant> {
        self.held.values().map(|hold| hold.until).filter(|until| *until > now).min()
    }

    /// Holds an object back after a transient failure that concerns it. `false` when too many are
    /// held already.
    pub fn hold(&mut self, entry: EntryId, now: Instant) -> bool {
        if self.held.len() >= MOST_HELD && !self.held.contains_key(&entry) {
            // Those that may go again are no longer held; keep their count only while there is room.
            self.held.retain(|_, hold| now < hold.until);
            if self.held.len() >= MOST_HELD {
                return false;
            }
        }
        let failures = self.held.get(&entry).map_or(0, |hold| hold.failures).saturating_add(1);
        self.hold_for(entry, failures, now);
        true
    }

    /// Holds an object back as after so many failures.
    pub fn hold_for(&mut self, entry: EntryId, failures: u32, now: Instant) {
        if self.held.len() >= MOST_HELD * 2 {
            return;
        }
        let until = now + self.policy.random_wait(failures);
        self.held.insert(entry, Hold { failures, until });
    }

    pub fn send_alone(&mut self, entry: EntryId) {
        if self.alone.len() < MOST_HELD {
            self.alone.insert(entry);
        }
    }

    /// Not what is only asked for as yet: questions go together.
    pub fn goes_alone(&self, entry: EntryId) -> bool {
        self.alone.contains(&entry) && !self.unanswered.contains(&entry)
    }

    /// Notes that an object went out whole and got no answer: it may have arrived. More than can be
    /// remembered are sent again without being asked for.
    pub fn got_no_answer(&mut self, entry: EntryId) {
        if self.unanswered.len() < MOST_HELD * 10 {
            self.unanswered.insert(entry);
        }
    }

    pub fn may_have_arrived(&self, entry: EntryId) -> bool {
        self.unanswered.contains(&entry)
    }

    /// It goes out (again), and nothing is known of its arrival.
    pub fn goes_out(&mut self, entry: EntryId) {
        self.unanswered.remove(&entry);
    }

    pub fn taken(&mut self, entry: EntryId, now: Instant) {
        self.last_taken = Some(now);
        self.forget(entry);
    }

    /// Nothing more will be tried with this object.
    pub fn forget(&mut self, entry: EntryId) {
        self.held.remove(&entry);
        self.first_refused.remove(&entry);
        self.alone.remove(&entry);
        self.unanswered.remove(&entry);
    }

    /// Notes a permanent refusal; `true` if the destination took other objects since the first one
    /// of this object. What happened before a restart is not known, and does not count.
    pub fn refused(&mut self, entry: EntryId, refusals_before: u32, now: Instant) -> bool {
        if self.first_refused.len() >= MOST_HELD * 10 {
            self.first_refused.clear();
        }
        let unknown_since = if refusals_before == 0 { now } else { self.began };
        let since = *self.first_refused.entry(entry).or_insert(unknown_since);
        self.last_taken.is_some_and(|taken| taken >= since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const A: EntryId = EntryId(1);
    const B: EntryId = EntryId(2);

    fn attempts() -> (Attempts, Instant) {
        let now = Instant::now();
        (Attempts::new(RetryPolicy::default(), now), now)
    }

    #[test]
    fn an_object_is_in_one_hand_only() {
        let (mut attempts, now) = attempts();
        assert!(attempts.start(A, now));
        assert!(!attempts.start(A, now));
        attempts.finish(A);
        assert!(attempts.start(A, now));
    }

    #[test]
    fn a_held_object_waits_while_others_go() {
        let (mut attempts, now) = attempts();
        assert!(attempts.hold(A, now));
        assert!(!attempts.start(A, now));
        assert!(attempts.start(B, now));
        assert_eq!(attempts.passed_over(), 2);
        assert!(attempts.start(A, now + Duration::from_secs(6)));
    }

    #[test]
    fn what_is_held_is_bounded() {
        let (mut attempts, now) = attempts();
        for n in 0..MOST_HELD as u64 {
            assert!(attempts.hold(EntryId(n), now));
        }
        assert!(!attempts.hold(EntryId(u64::MAX), now));
        assert!(attempts.hold(EntryId(u64::MAX), now + Duration::from_secs(6)));
    }

    #[test]
    fn only_what_was_taken_after_the_first_refusal_speaks_against_the_object() {
        let (mut attempts, now) = attempts();
        let second = Duration::from_secs(1);
        attempts.taken(B, now);
        assert!(!attempts.refused(A, 0, now + second));
        assert!(!attempts.refused(A, 1, now + second * 2));
        attempts.taken(B, now + second * 3);
        assert!(attempts.refused(A, 2, now + second * 4));
    }

    #[test]
    fn after_a_restart_anything_taken_since_then_counts() {
        let (mut attempts, now) = attempts();
        assert!(!attempts.refused(A, 4, now));
        attempts.taken(B, now + Duration::from_secs(1));
        assert!(attempts.refused(A, 4, now + Duration::from_secs(2)));
    }
}
