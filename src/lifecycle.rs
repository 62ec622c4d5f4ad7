//! How the node stops. The first SIGTERM, SIGINT or SIGHUP begins a drain, a second one aborts;
//! a failed disk stops at once. [`crate::node`] owns one [`Stage`] per part and drains them in flow order;
//! parts get only their [`Shutdown`].

use std::future::Future;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a part watches. `soft`: take nothing new, finish what is under way. `hard`: end now.
/// `hard` implies `soft`.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    pub soft: CancellationToken,
    pub hard: CancellationToken,
}

impl Shutdown {
    /// Ends the part now.
    pub fn abort(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }
}

/// One step of the drain: its tasks, and the tokens that they watch.
#[derive(Debug, Clone, Default)]
pub struct Stage {
    shutdown: Shutdown,
    tasks: TaskTracker,
}

impl Stage {
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(task);
    }

    /// Lets the tasks finish until `deadline`, then ends them; true when none had to be ended. A
    /// task that ignores even `hard` is left behind after a last moment, not waited for.
    pub async fn drain(&self, deadline: tokio::time::Instant) -> bool {
        const LAST_MOMENT: Duration = Duration::from_secs(2);
        self.shutdown.soft.cancel();
        self.tasks.close();
        tokio::select! {
            () = self.tasks.wait() => return true,
            () = self.shutdown.hard.cancelled() => {}
            () = tokio::time::sleep_until(deadline) => self.shutdown.hard.cancel(),
        }
        let _ = tokio::time::timeout(LAST_MOMENT, self.tasks.wait()).await;
        false
    }

    pub fn abort(&self) {
        self.shutdown.abort();
    }
}

/// Why the node stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// A signal, or a test, asked for it.
    Asked,
    /// The spool could not make something durable: exit code 75.
    StorageFailed(String),
}

/// Exit codes of the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    /// EX_TEMPFAIL of sysexits.h.
    Storage = 75,
    /// EX_CONFIG of sysexits.h.
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// The node's wish to stop, which any part may express once; the first reason counts.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    stopping: CancellationToken,
    aborting: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
}

impl Lifecycle {
    pub fn stop(&self, reason: StopReason) {
        let _ = self.reason.set(reason);
        self.stopping.cancel();
    }

    /// No grace: what still runs is ended.
    pub fn abort(&self) {
        self.aborting.cancel();
    }

    pub async fn stopped(&self) -> StopReason {
        self.stopping.cancelled().await;
        self.reason.get().cloned().unwrap_or(StopReason::Asked)
    }

    pub async fn aborted(&self) {
        self.aborting.cancelled().await;
    }

    /// Turns signals into wishes, until the process ends.
    pub fn watch_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // A terminal that was closed. The configuration is read at the start only.
        let mut hangup = signal(SignalKind::hangup())?;
        let lifecycle = self.clone();
        tokio::spawn(async move {
            let mut seen = 0;
            loop {
                let received = tokio::select! {
                    signal = terminate.recv() => signal,
                    signal = interrupt.recv() => signal,
                    signal = hangup.recv() => signal,
                };
                if received.is_none() {
                    return;
                }
                seen += 1;
                if seen == 1 {
                    tracing::info!("draining; a second signal ends what still runs");
                    lifecycle.stop(StopReason::Asked);
                } else {
                    tracing::warn!("ending what still runs");
                    lifecycle.abort();
                }
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> tokio::time::Instant {
        tokio::time::Instant::now() + Duration::from_millis(50)
    }

    #[tokio::test]
    async fn a_drain_lets_a_task_finish_what_it_began() {
        let stage = Stage::default();
        let (shutdown, finished) = (stage.shutdown(), Arc::new(OnceLock::new()));
        let done = finished.clone();
        stage.spawn(async move {
            shutdown.soft.cancelled().await;
            let _ = done.set(!shutdown.hard.is_cancelled());
        });
        assert!(stage.drain(tokio::time::Instant::now() + Duration::from_secs(30)).await);
        assert_eq!(finished.get(), Some(&true));
    }

    #[tokio::test]
    async fn a_task_that_does_not_finish_is_ended_at_the_deadline() {
        let stage = Stage::default();
        let shutdown = stage.shutdown();
        stage.spawn(async move { shutdown.hard.cancelled().await });
        assert!(!stage.drain(soon()).await);
    }

    #[tokio::test]
    async fn the_first_reason_to_stop_counts() {
        let lifecycle = Lifecycle::default();
        lifecycle.stop(StopReason::StorageFailed("sync".into()));
        lifecycle.stop(StopReason::Asked);
        assert_eq!(lifecycle.stopped().await, StopReason::StorageFailed("sync".into()));
    }
}
