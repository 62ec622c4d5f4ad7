//! What the tests share: a node of their own, objects to send it, and waiting without sleeping.

mod binary;
pub mod dcmtk;
mod instance;
mod node;
pub mod postgres;

pub use binary::Binary;
pub use instance::{Instance, instance};
pub use node::TestNode;

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use relaypacs::spool::SpoolOptions;

/// Long enough for a busy machine; nothing waits so long when it works.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A small spool under `dir`, on whatever file system that is; full only when the disk is.
pub fn spool_options(dir: &Path) -> SpoolOptions {
    SpoolOptions {
        dir: dir.join("spool"),
        inline_limit: 256 << 10,
        segment_size: 4 << 20,
        retention: Duration::from_secs(3600),
        high_watermark: 0.999,
        critical_watermark: 1.0,
        sync: true,
        any_file_system: true,
    }
}

/// Asks until the answer is `Some`, at most [`DEADLINE`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < DEADLINE, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
