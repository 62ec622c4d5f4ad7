//! Time as a dependency, so that a test can move it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Wall-clock time in milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, Default,
)]
pub struct Millis(pub u64);

impl Millis {
    pub fn plus(self, duration: Duration) -> Millis {
        Millis(self.0.saturating_add(duration.as_millis().min(u128::from(u64::MAX)) as u64))
    }

    /// RFC 3339, with any offset; of a date alone, its begin in UTC.
    pub fn parse(text: &str) -> Option<Millis> {
        let date = || text.parse::<chrono::NaiveDate>().ok()?.and_hms_opt(0, 0, 0);
        let at = match chrono::DateTime::parse_from_rfc3339(text) {
            Ok(at) => at.timestamp_millis(),
            Err(_) => date()?.and_utc().timestamp_millis(),
        };
        u64::try_from(at).ok().map(Millis)
    }

    pub fn since(self, earlier: Millis) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// RFC 3339 in UTC.
impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = i64::try_from(self.0).ok().and_then(chrono::DateTime::from_timestamp_millis);
        match at {
            Some(at) => f.write_str(&at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)),
            None => write!(f, "{}ms", self.0),
        }
    }
}

/// For what people and other programs read: RFC 3339 instead of a number.
pub mod rfc3339 {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Millis;

    pub fn serialize<S: Serializer>(at: &Millis, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(at)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Millis, D::Error> {
        let text = String::deserialize(deserializer)?;
        Millis::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a time")))
    }

    /// As its parent, where there may be none.
    pub mod option {
        use serde::{Deserialize, Deserializer, Serializer};

        use super::Millis;

        pub fn serialize<S: Serializer>(at: &Option<Millis>, serializer: S) -> Result<S::Ok, S::Error> {
            match at {
                Some(at) => serializer.collect_str(at),
                None => serializer.serialize_none(),
            }
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Millis>, D::Error> {
            let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
            let at = Millis::parse(&text);
            at.map(Some).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a time")))
        }
    }
}

pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Millis;
}

pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Millis {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Millis(since_epoch.as_millis() as u64)
    }
}

/// Stands still until told to move.
#[derive(Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_it_is_written() {
        let at = Millis(1_795_387_879_982);
        assert_eq!(Millis::parse(&at.to_string()), Some(at));
        assert_eq!(Millis::parse("1970-01-01T01:00:01+01:00"), Some(Millis(1000)));
        assert_eq!(Millis::parse("1970-01-02"), Some(Millis(86_400_000)));
        assert_eq!(Millis::parse("yesterday"), None);
        assert_eq!(Millis::parse("1970-13-02"), None);
    }
}
