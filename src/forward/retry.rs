//! When to try again: pure arithmetic of back-off and of patience with refused objects.

use std::time::Duration;

/// Exponential back-off with full jitter, without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Ceiling of the first wait.
    pub first: Duration,
    /// Ceiling of all waits.
    pub longest: Duration,
    /// Permanent refusals of one object before it is held for a person.
    pub poison_after: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { first: Duration::from_secs(5), longest: Duration::from_secs(15 * 60), poison_after: 5 }
    }
}

/// The least wait, so that a jitter of nothing does not become a busy loop.
const LEAST: Duration = Duration::from_millis(20);

impl RetryPolicy {
    /// The wait after the `failures`-th failure in a row (from 1), with `jitter` from 0 to 1. Full
    /// jitter: peers that failed together don't come back together.
    pub fn wait(&self, failures: u32, jitter: f64) -> Duration {
        self.ceiling(failures).mul_f64(jitter.clamp(0.0, 1.0)).max(LEAST)
    }

    /// As [`RetryPolicy::wait`], by chance.
    pub fn random_wait(&self, failures: u32) -> Duration {
        self.wait(failures, rand::random())
    }

    fn ceiling(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.longest)
    }
}

/// What to do with an object after one more permanent refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Try it again later; `attempts` refusals so far.
    Defer { attempts: u32 },
    /// The object is at fault: the destination took others meanwhile.
    Poison,
    /// Nothing was taken meanwhile: the destination is at fault, not the object.
    BlameDestination { attempts: u32 },
}

impl RetryPolicy {
    pub fn after_refusal(&self, refusals_before: u32, took_others_since_first: bool) -> Patience {
        let attempts = refusals_before.saturating_add(1);
        if attempts < self.poison_after {
            return Patience::Defer { attempts };
        }
        if took_others_since_first { Patience::Poison } else { Patience::BlameDestination { attempts } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy =
        RetryPolicy { first: Duration::from_secs(5), longest: Duration::from_secs(900), poison_after: 5 };

    #[test]
    fn waits_double_up_to_the_longest() {
        let ceilings: Vec<u64> = (1..=10).map(|n| POLICY.wait(n, 1.0).as_secs()).collect();
        assert_eq!(ceilings, [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]);
        assert_eq!(POLICY.wait(u32::MAX, 1.0).as_secs(), 900);
    }

    #[test]
    fn jitter_spreads_over_the_whole_range_but_never_spins() {
        assert_eq!(POLICY.wait(3, 0.5).as_secs(), 10);
        assert_eq!(POLICY.wait(1, 0.0), LEAST);
        for _ in 0..1000 {
            assert!(POLICY.random_wait(4) <= Duration::from_secs(40));
        }
    }

    #[test]
    fn an_object_is_poisoned_only_where_others_were_taken() {
        assert_eq!(POLICY.after_refusal(3, true), Patience::Defer { attempts: 4 });
        assert_eq!(POLICY.after_refusal(4, true), Patience::Poison);
        assert_eq!(POLICY.after_refusal(4, false), Patience::BlameDestination { attempts: 5 });
        assert_eq!(POLICY.after_refusal(9, true), Patience::Poison);
    }
}
