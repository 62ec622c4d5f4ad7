//! One circuit breaker per destination: after a failure of the destination nothing is tried until
//! the back-off has passed, then one attempt alone, and all of them once it succeeds. Pure; time
//! comes in as [`Instant`], so a wrong wall clock can't hold a delivery.

use std::time::{Duration, Instant};

use super::retry::RetryPolicy;

/// Objects in a row that met a transient failure before the destination is blamed.
const OBJECTS_IN_A_ROW: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until: Instant,
    },
    /// One attempt is under way.
    Probing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Go,
    /// Try one object, alone.
    Probe,
    /// Nothing before then.
    WaitUntil(Instant),
    /// Somebody else is probing.
    WaitForProbe,
}

/// What a report changed: the moment to write one line about the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    None,
    WentDown,
    CameBack,
}

#[derive(Debug)]
pub struct Breaker {
    policy: RetryPolicy,
    state: State,
    failures: u32,
    objects_in_a_row: u32,
}

impl Breaker {
    pub fn new(policy: RetryPolicy) -> Self {
        Self { policy, state: State::Closed, failures: 0, objects_in_a_row: 0 }
    }

    /// Whether an attempt may start. An answer of `Probe` must be followed by a report:
    /// [`Breaker::succeeded`], [`Breaker::failed`] or [`Breaker::probe_unused`].
    pub fn admit(&mut self, now: Instant) -> Admission {
        match self.state {
            State::Closed => Admission::Go,
            State::Open { until } if now < until => Admission::WaitUntil(until),
            State::Open { .. } => {
                self.state = State::Probing;
                Admission::Probe
            }
            State::Probing => Admission::WaitForProbe,
        }
    }

    pub fn is_up(&self) -> bool {
        self.failures == 0
    }

    /// When it is tried next, if it is down.
    pub fn next_try(&self) -> Option<Instant> {
        match self.state {
            State::Open { until } => Some(until),
            State::Closed | State::Probing => None,
        }
    }

    /// The destination answered sensibly.
    pub fn succeeded(&mut self) -> Change {
        let was_down = !self.is_up();
        self.failures = 0;
        self.objects_in_a_row = 0;
        self.state = State::Closed;
        if was_down { Change::CameBack } else { Change::None }
    }

    /// The destination failed as a whole: connection, association, credentials, no room.
    /// `at_least` is what it asked for itself (Retry-After).
    pub fn failed(&mut self, now: Instant, at_least: Option<Duration>) -> Change {
        // Attempts that were under way when it went down are one failure, not many.
        if matches!(self.state, State::Open { .. }) {
            return Change::None;
        }
        let was_up = self.is_up();
        self.failures = self.failures.saturating_add(1);
        self.objects_in_a_row = 0;
        let asked = at_least.unwrap_or_default().min(self.policy.longest);
        let wait = self.policy.random_wait(self.failures).max(asked);
        self.state = State::Open { until: now + wait };
        if was_up { Change::WentDown } else { Change::None }
    }

    /// One object met a transient failure, on an association that works. A few in a row, or the
    /// probe, mean that the destination is full or ill.
    pub fn object_failed(&mut self, now: Instant) -> Change {
        self.objects_in_a_row += 1;
        if self.state == State::Probing || self.objects_in_a_row >= OBJECTS_IN_A_ROW {
            return self.failed(now, None);
        }
        Change::None
    }

    /// There was nothing to probe with, or the probe was called off.
    pub fn probe_unused(&mut self, now: Instant) {
        if self.state == State::Probing {
            self.state = State::Open { until: now };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> (Breaker, Instant) {
        (Breaker::new(RetryPolicy::default()), Instant::now())
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_failure_opens_it_and_one_probe_at_a_time_closes_it() {
        let (mut breaker, now) = breaker();
        assert_eq!(breaker.failed(now, None), Change::WentDown);
        assert!(matches!(breaker.admit(now), Admission::WaitUntil(_)));
        assert_eq!(breaker.admit(now + LONG), Admission::Probe);
        assert_eq!(breaker.admit(now + LONG), Admission::WaitForProbe);
        assert_eq!(breaker.succeeded(), Change::CameBack);
        assert_eq!(breaker.admit(now + LONG), Admission::Go);
    }

    #[test]
    fn a_failed_probe_opens_it_again_without_news() {
        let (mut breaker, now) = breaker();
        breaker.failed(now, None);
        breaker.admit(now + LONG);
        assert_eq!(breaker.failed(now + LONG, None), Change::None);
        assert!(!breaker.is_up());
        assert!(breaker.next_try().is_some());
    }

    #[test]
    fn parallel_attempts_that_fail_together_count_once() {
        let (mut breaker, now) = breaker();
        breaker.failed(now, None);
        breaker.failed(now, None);
        breaker.failed(now, None);
        assert_eq!(breaker.failures, 1);
    }

    #[test]
    fn one_bad_object_does_not_open_it_but_several_in_a_row_do() {
        let (mut breaker, now) = breaker();
        breaker.object_failed(now);
        breaker.object_failed(now);
        breaker.succeeded();
        breaker.object_failed(now);
        breaker.object_failed(now);
        assert_eq!(breaker.admit(now), Admission::Go);
        assert_eq!(breaker.object_failed(now), Change::WentDown);
        assert!(matches!(breaker.admit(now), Admission::WaitUntil(_)));
    }

    #[test]
    fn a_probe_without_work_stays_ready_for_the_next_object() {
        let (mut breaker, now) = breaker();
        breaker.failed(now, None);
        assert_eq!(breaker.admit(now + LONG), Admission::Probe);
        breaker.probe_unused(now + LONG);
        assert!(!breaker.is_up());
        assert_eq!(breaker.admit(now + LONG), Admission::Probe);
    }

    #[test]
    fn a_wish_to_wait_longer_is_honoured_within_reason() {
        let (mut breaker, now) = breaker();
        breaker.failed(now, Some(Duration::from_secs(120)));
        assert!(breaker.next_try().unwrap() >= now + Duration::from_secs(120));
        let (mut breaker, now) = self::breaker();
        breaker.failed(now, Some(Duration::from_secs(1_000_000)));
        assert!(breaker.next_try().unwrap() <= now + Duration::from_secs(900));
    }
}
