//! What became of each object, kept when its bytes are gone: one row for each event of the log.

use std::collections::{BTreeMap, HashMap};

use sqlx::{Any, Row, Transaction};

use super::rows::padded;
use crate::clock::Millis;
use crate::spool::{EntryId, Fact, Followed, Outcome};
use crate::store::{Sql, StoreError};

/// Rows in one INSERT, entries in one IN list.
const CHUNK: usize = 64;

struct Event<'a> {
    entry: EntryId,
    at: Millis,
    destination: &'a str,
    event: &'static str,
    detail: Option<&'a str>,
}

/// Adds the events among `facts`; one that is there already is not added again.
pub(super) async fn record(tx: &mut Transaction<'static, Any>, facts: &[Followed]) -> Result<(), StoreError> {
    let mut events = Vec::new();
    for followed in facts {
        collect(&followed.fact, &mut events);
    }
    for chunk in events.chunks(CHUNK) {
        let mut sql = Sql::within(tx, "INSERT INTO history (entry, at, destination, event, detail) VALUES ");
        for (at, event) in chunk.iter().enumerate() {
            sql.push(if at > 0 { ", (" } else { "(" }).bind(event.entry.0).push(", ").bind(event.at);
            sql.push(", ").bind(event.destination).push(", ").bind(event.event);
            sql.push(", ").bind(event.detail).push(")");
        }
        sql.push(" ON CONFLICT DO NOTHING");
        sql.execute(&mut **tx).await?;
    }
    Ok(())
}

fn collect<'a>(fact: &'a Fact, events: &mut Vec<Event<'a>>) {
    match fact {
        Fact::Routed { entry, destinations, at } if destinations.is_empty() => {
            events.push(Event { entry: *entry, at: *at, destination: "", event: "unrouted", detail: None });
        }
        Fact::Routed { entry, destinations, at } => {
            events.extend(destinations.iter().map(|destination| Event {
                entry: *entry,
                at: *at,
                destination,
                event: "routed",
                detail: None,
            }));
        }
        Fact::Delivery { entry, destination, outcome, at } => {
            let (event, detail) = named(outcome);
            events.push(Event { entry: *entry, at: *at, destination, event, detail });
        }
        Fact::Purged { entry, reason, at } => {
            let detail = Some(reason.as_str());
            events.push(Event { entry: *entry, at: *at, destination: "", event: "purged", detail });
        }
        // What a comparison found stands in the spool, beside the conflict that remains.
        Fact::Received(_)
        | Fact::Compared { .. }
        | Fact::Unlisted { .. }
        | Fact::CommitmentRequested { .. }
        | Fact::CommitmentClosed { .. } => {}
    }
}

fn named(outcome: &Outcome) -> (&'static str, Option<&str>) {
    match outcome {
        Outcome::Sent => ("sent", None),
        Outcome::SentUnproven { reason } => ("sent_unproven", Some(reason)),
        Outcome::Verified { by } => ("verified", Some(by)),
        Outcome::Deferred { reason, .. } => ("deferred", Some(reason)),
        Outcome::Poisoned { reason } => ("poisoned", Some(reason)),
        Outcome::Requeued => ("requeued", None),
        Outcome::Resent => ("resent", None),
        Outcome::Cancelled => ("cancelled", None),
    }
}

/// The destinations that hold each of `entries`: those that proved it; where none did, those that
/// acknowledged it.
pub(super) async fn holders(
    tx: &mut Transaction<'static, Any>,
    entries: &[EntryId],
) -> Result<HashMap<EntryId, String>, StoreError> {
    let mut last: BTreeMap<(u64, String), String> = BTreeMap::new();
    let ids: Vec<i64> = entries.iter().map(|entry| entry.0 as i64).collect();
    for chunk in ids.chunks(CHUNK) {
        let mut sql = Sql::within(tx, "SELECT entry, destination, event FROM history WHERE entry IN ");
        // `sent` sorts before `verified` where one millisecond saw both.
        sql.list(padded(chunk)).push(" AND event <> 'routed' ORDER BY entry, at, event");
        for row in sql.fetch_all(&mut **tx).await? {
            let entry: i64 = row.try_get(0)?;
            last.insert((entry as u64, row.try_get(1)?), row.try_get(2)?);
        }
    }
    let named = |entry: &EntryId, event: &str| -> Vec<String> {
        let of_entry = last.range((entry.0, String::new())..(entry.0 + 1, String::new()));
        of_entry.filter(|(_, last)| *last == event).map(|((_, destination), _)| destination.clone()).collect()
    };
    Ok(entries
        .iter()
        .map(|entry| {
            let verified = named(entry, "verified");
            let holders = if verified.is_empty() { named(entry, "sent") } else { verified };
            (*entry, holders.join(", "))
        })
        .collect())
}
