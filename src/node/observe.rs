//! What others see of the node: the gauges of a scrape, the dependencies of readiness, and what
//! recovery found.

use std::sync::Arc;

use super::Foundation;
use crate::admin::Running;
use crate::clock::Clock;
use crate::config::SpoolDurability;
use crate::forward::{DestinationStatus, Forward};
use crate::http::Probe;
use crate::http::health::{Condition, Dependency};
use crate::index::Index;
use crate::spool::{DeliveryState, Spool};
use crate::telemetry::gauges::{DestinationGauges, Snapshot};
use crate::telemetry::listener::GaugeSource;

/// Waiting deliveries of one state that a scrape looks at; reading so many takes milliseconds.
const MOST_LOOKED_AT: usize = 5_000;

/// One line when nothing happened, louder ones for what a person must look at.
pub fn report_recovery(spool: &Spool) {
    let report = spool.recovery();
    if !report.lost.is_empty() || report.listed > 0 {
        tracing::error!(
            lost = report.lost.len(),
            unreadable = report.listed,
            "acknowledged objects can't be read any more; see `relaypacs spool verify`"
        );
    }
    if report.set_aside > 0 || report.unnamed > 0 {
        tracing::warn!(
            set_aside = report.set_aside,
            unnamed = report.unnamed,
            "recovery put pieces that no record names into the spool's review folder"
        );
    }
    tracing::info!(replayed = report.replayed, rebuilt = report.rebuilt, "spool open");
}

/// Gathers the gauges' values when a scrape asks for them.
pub fn gauges(foundation: &Foundation, running: &Running) -> GaugeSource {
    let (spool, clock) = (foundation.spool.clone(), foundation.clock.clone());
    let (forward, index) = (running.forward.clone(), running.index.clone());
    Arc::new(move || {
        let (spool, clock) = (spool.clone(), clock.clone());
        let (forward, index) = (forward.clone(), index.clone());
        Box::pin(async move { snapshot(&spool, &*clock, &forward, &index).await })
    })
}

async fn snapshot(spool: &Spool, clock: &dyn Clock, forward: &Forward, index: &Index) -> Snapshot {
    let status = spool.status();
    let mut destinations = Vec::new();
    for destination in forward.destinations() {
        destinations.push(of_destination(spool, clock, destination).await);
    }
    Snapshot {
        spool_bytes: status.bytes,
        spool_objects: status.objects,
        spool_capacity_ratio: status.capacity_ratio,
        acked_object_missing: status.damaged,
        index_lag_seconds: index.lag().as_secs_f64(),
        destinations,
    }
}

async fn of_destination(spool: &Spool, clock: &dyn Clock, status: DestinationStatus) -> DestinationGauges {
    DestinationGauges {
        oldest_undelivered_seconds: oldest_undelivered(spool, clock, &status.name).await,
        up: status.up,
        deliveries: vec![
            ("queued", status.queued),
            ("sent", status.sent),
            ("verified", status.verified),
            ("deferred", status.deferred),
            ("poisoned", status.poisoned),
        ],
        name: status.name,
    }
}

/// Age of the oldest object that waits for a destination: the one with the smallest number, as
/// entries are numbered as they came. They are listed by when they are due, so that it may be
/// anywhere among them; of very many, those due first are looked at.
async fn oldest_undelivered(spool: &Spool, clock: &dyn Clock, destination: &str) -> f64 {
    let mut oldest = 0.0_f64;
    for state in [DeliveryState::Queued, DeliveryState::Deferred] {
        let Ok(waiting) = spool.deliveries(destination, state, None, MOST_LOOKED_AT).await else { continue };
        let Some(first) = waiting.iter().map(|delivery| delivery.entry).min() else { continue };
        if let Ok(entry) = spool.state(first).await {
            oldest = oldest.max(clock.now().since(entry.received_at).as_secs_f64());
        }
    }
    oldest
}

/// Readiness's lines beside the log's: none of them stops receiving.
pub fn dependencies(foundation: &Foundation, running: &Running) -> Probe {
    let (index, forward) = (running.index.clone(), running.forward.clone());
    let spool = foundation.spool.clone();
    let relaxed = foundation.config.spool.durability == SpoolDurability::Relaxed;
    Arc::new(move || {
        let (index, forward, spool) = (index.clone(), forward.clone(), spool.clone());
        Box::pin(async move {
            let database = index.ping().await.is_ok();
            let mut lines = vec![match index.damage() {
                Some(_) => line("database", false, "damaged: see docs/operations.md"),
                None => line("database", database, "it does not answer"),
            }];
            if spool.status().damaged > 0 {
                let detail = "acknowledged objects can't be read: see `relaypacs spool verify` and review/";
                lines.push(line("objects", false, detail));
            }
            if relaxed {
                lines.push(line("durability", false, "relaxed: answers do not wait for the disk"));
            }
            for destination in forward.destinations() {
                let why = if destination.kind == "gone" {
                    "deliveries wait, and it is not configured"
                } else {
                    "down"
                };
                lines.push(line(&format!("destination {}", destination.name), destination.up, why));
            }
            lines
        })
    })
}

fn line(name: &str, up: bool, otherwise: &str) -> Dependency {
    Dependency {
        name: name.to_owned(),
        condition: if up { Condition::Up } else { Condition::Degraded },
        detail: (!up).then(|| otherwise.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::clock::{ManualClock, Millis};
    use crate::dicom::{Attributes, InstanceKey, Uid};
    use crate::spool::{Digest, Durability, EntryId, Fact, Origin, Outcome, SpoolEntry, SpoolOptions};

    fn entry(uid: &str, received_at: Millis) -> SpoolEntry {
        let parse = |text: &str| Uid::parse(text).unwrap();
        SpoolEntry {
            id: EntryId(0),
            key: InstanceKey {
                study_instance_uid: parse("1.2"),
                series_instance_uid: parse("1.2.3"),
                sop_instance_uid: parse(uid),
            },
            sop_class_uid: parse("1.2.840.10008.5.1.4.1.1.7"),
            transfer_syntax_uid: "1.2.840.10008.1.2.1".into(),
            data_set_sha256: Digest([0; 32]),
            data_set_length: 0,
            prefix_length: 0,
            origin: Origin::Stow { account: "test".into(), peer: None },
            received_at,
            attributes: Attributes::default(),
            rule_set: 0,
            conflict_with: None,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_oldest_undelivered_object_is_the_one_received_first_whenever_it_is_due() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::default()));
        let options = SpoolOptions {
            dir: dir.path().to_owned(),
            inline_limit: 64 << 10,
            segment_size: 1 << 20,
            retention: Duration::from_secs(60),
            high_watermark: 0.999,
            critical_watermark: 1.0,
            sync: true,
            any_file_system: true,
        };
        let spool = Spool::start(options, clock.clone()).unwrap();
        for (at, due) in [(1_000, 9_000), (2_000, 5_000), (3_000, 7_000)] {
            let mut stage = spool.stage();
            stage.write(Bytes::from(format!("data set {at}"))).await.unwrap();
            let staged = stage.finish().await.unwrap();
            let entry = entry(&format!("1.2.3.{at}"), Millis(at));
            let id = spool.commit(entry, Bytes::from_static(b"prefix"), staged).await.unwrap().id;
            let outcome = Outcome::Deferred { due: Millis(due), attempts: 1, reason: "refused".into() };
            let (destination, at) = ("pacs".to_owned(), Millis(at));
            let facts = vec![
                Fact::Routed { entry: id, destinations: vec![destination.clone()], at },
                Fact::Delivery { entry: id, destination, outcome, at },
            ];
            let position = spool.append(facts, Durability::Synced).await.unwrap();
            spool.applied(position).await.unwrap();
        }
        clock.advance(Duration::from_secs(11));
        assert_eq!(oldest_undelivered(&spool, &*clock, "pacs").await, 10.0);
        assert_eq!(oldest_undelivered(&spool, &*clock, "other").await, 0.0);
        spool.close();
    }
}
