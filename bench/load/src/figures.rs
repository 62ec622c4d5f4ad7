//! What a run took, as a line of JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Times in milliseconds, sorted by `new`.
pub struct Times(Vec<f64>);

impl Times {
    pub fn new(times: impl IntoIterator<Item = Duration>) -> Self {
        let mut all: Vec<f64> = times.into_iter().map(|time| time.as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }

    /// Nearest rank.
    fn quantile(&self, part: f64) -> f64 {
        let rank = (self.0.len() as f64 * part).ceil() as usize;
        self.0.get(rank.max(1) - 1).copied().unwrap_or(0.0)
    }

    pub fn json(&self) -> String {
        format!(
            r#""p50_ms":{:.3},"p99_ms":{:.3},"max_ms":{:.3}"#,
            self.quantile(0.5),
            self.quantile(0.99),
            self.quantile(1.0)
        )
    }
}

/// Seconds since 1970, for what is compared with another process.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
