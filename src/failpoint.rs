//! Named points at which a crash test may end the process, and syncs that it may leave out, to see
//! that it would notice. Compiled in only with the feature `failpoints`; the release binary has none.

/// Ends the process here, as `kill -9` would, when `RELAYPACS_FAILPOINT` is `<name>@<n>` and this
/// is the n-th time that the point is passed.
#[cfg(feature = "failpoints")]
pub fn pass(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ARMED: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let armed = std::env::var("RELAYPACS_FAILPOINT").ok()?;
        let (name, nth) = armed.split_once('@')?;
        Some((name.to_owned(), nth.parse().ok()?))
    });
    static PASSED: AtomicU64 = AtomicU64::new(0);

    let Some((armed, nth)) = &*ARMED else { return };
    if armed == name && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *nth {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn pass(_name: &str) {}

/// Does a sync, unless `RELAYPACS_LEAVE_OUT` is its name.
#[cfg(feature = "failpoints")]
pub fn sync<E>(name: &str, sync: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    use std::sync::LazyLock;

    static LEFT_OUT: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("RELAYPACS_LEAVE_OUT").ok());

    if LEFT_OUT.as_deref() == Some(name) { Ok(()) } else { sync() }
}

#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn sync<E>(_name: &str, sync: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    sync()
}
