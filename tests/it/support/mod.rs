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
use std::time::{Duration, Instant};

/// Long enough for a busy machine; nothing waits so long when it works.
pub const DEADLINE: Duration = Duration::from_secs(30);

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
