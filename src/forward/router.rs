//! Follows the log: for every received object, decides where it goes. The decision is a fact of
//! its own, synced before the first send. Deciding again after a crash is harmless.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use crate::spool::{Cursor, Durability, Fact, Followed, LogPosition, Outcome, SpoolEntry, SpoolError};

/// Facts looked at in one go; the decisions among them share one sync.
const BATCH: usize = 512;

/// Runs until the node stops.
pub async fn run(inner: Arc<Inner>, mut position: LogPosition) {
    let start = inner.spool.durable_position();
    loop {
        let followed = tokio::select! {
            followed = inner.spool.follow(position, BATCH) => followed,
            () = inner.stopping.cancelled() => return,
        };
        let routed = match followed {
            Ok(facts) => route(&inner, &facts, start).await.map(|()| facts.last().map(|fact| fact.after)),
            Err(error) => Err(error),
        };
        match routed {
            Ok(None) => {}
            Ok(Some(after)) => {
                position = after;
                inner.spool.report_cursor(Cursor::Route, position);
            }
            Err(SpoolError::Failed(_)) => return,
            Err(error) => {
                tracing::error!(%error, "routing waits for the spool");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Decides about the new objects among these facts, then wakes whoever has work.
async fn route(inner: &Inner, facts: &[Followed], start: LogPosition) -> Result<(), SpoolError> {
    let mut wake = BTreeSet::new();
    let mut decisions = Vec::new();
    let mut resent = Vec::new();
    let deciding = inner.deciding.lock().await;
    for followed in facts {
        match &*followed.fact {
            Fact::Received(entry) if is_news(inner, entry, followed, start).await? => {
                decisions.push(decide(inner, entry, &mut wake));
            }
            // Backfill, or a person, made work.
            Fact::Routed { destinations, .. } => wake.extend(destinations.iter().cloned()),
            Fact::Delivery { destination, outcome: Outcome::Requeued, .. } => {
                wake.insert(destination.clone());
            }
            Fact::Delivery { entry, destination, outcome: Outcome::Resent, .. } => {
                resent.push((destination, *entry, followed.after));
            }
            _ => {}
        }
    }
    if !decisions.is_empty() {
        crate::failpoint::pass("route");
        // It shares the next object's sync, or has one of its own soon: nothing is sent before it is
        // applied, and nothing is applied before it is synced.
        let position = inner.spool.append(decisions, Durability::Soon).await?;
        inner.spool.applied(position).await?;
    }
    drop(deciding);
    inner.wake(&wake);
    // The verifier believes the projection.
    if let Some((_, _, last)) = resent.last() {
        inner.spool.applied(*last).await?;
    }
    for (destination, entry, _) in resent {
        inner.prove_again(destination, entry);
    }
    Ok(())
}

/// Whether a reception needs a decision. What lies before `start` may have been decided in an
/// earlier run, under other rules; conflicts are decided by a person.
async fn is_news(
    inner: &Inner,
    entry: &SpoolEntry,
    followed: &Followed,
    start: LogPosition,
) -> Result<bool, SpoolError> {
    if entry.conflict_with.is_some() || followed.is_copy {
        return Ok(false);
    }
    if followed.after > start {
        return Ok(true);
    }
    inner.spool.applied(followed.after).await?;
    match inner.spool.state(entry.id).await {
        Ok(state) => Ok(!state.routed),
        Err(SpoolError::Unknown(_) | SpoolError::Freed(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn decide(inner: &Inner, entry: &SpoolEntry, wake: &mut BTreeSet<String>) -> Fact {
    let destinations = inner.rules.read().decide(entry);
    if destinations.is_empty() {
        inner.count_unrouted();
    }
    wake.extend(destinations.iter().cloned());
    Fact::Routed { entry: entry.id, destinations, at: inner.clock.now() }
}
