//! Watches whether a transfer moves, and how far it got. Objects may take hours on a slow line; what
//! must not last is standing still.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    moves: AtomicU64,
    whole: AtomicUsize,
}

impl Progress {
    pub fn made(&self) {
        self.0.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// One more object was handed to the connection to its last byte.
    pub fn went_out(&self) {
        self.0.whole.fetch_add(1, Ordering::Relaxed);
    }

    /// How many objects were.
    pub fn whole(&self) -> usize {
        self.0.whole.load(Ordering::Relaxed)
    }

    pub fn has_begun(&self) -> bool {
        self.0.moves.load(Ordering::Relaxed) > 0
    }

    /// Resolves once nothing has moved for `limit` (noticed within half of that again).
    pub async fn stalled(&self, limit: Duration) {
        let step = (limit / 2).max(Duration::from_millis(1));
        let mut seen = self.0.moves.load(Ordering::Relaxed);
        let mut quiet = Duration::ZERO;
        while quiet < limit {
            tokio::time::sleep(step).await;
            let now = self.0.moves.load(Ordering::Relaxed);
            quiet = if now == seen { quiet + step } else { Duration::ZERO };
            seen = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_moves_does_not_stall_and_what_stands_still_does() {
        const LIMIT: Duration = Duration::from_millis(400);
        let progress = Progress::default();
        let mover = progress.clone();
        let moving = async move {
            for _ in 0..8 {
                tokio::time::sleep(LIMIT / 4).await;
                mover.made();
            }
        };
        let began = std::time::Instant::now();
        let ((), ()) = tokio::join!(progress.stalled(LIMIT), moving);
        // It moved for two limits, and was given one more.
        assert!(began.elapsed() >= LIMIT * 2 + LIMIT / 2, "{:?}", began.elapsed());
    }
}
