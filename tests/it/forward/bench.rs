//! A spool, the way in, and delivery out of it; without doors.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use relaypacs::clock::{Clock as _, ManualClock, SystemClock};
use relaypacs::config::{DestinationConfig, RuleConfig};
use relaypacs::dicom::{AeTitle, TransferSyntax, Uid};
use relaypacs::forward::{
    ConfiguredDestination, Forward, ForwardError, ForwardOptions, RetryPolicy, Setup, VerificationPolicy,
};
use relaypacs::ingest::{Form, Ingest, IngestOptions, Offer};
use relaypacs::spool::{Delivery, DeliveryState, EntryId, Origin, Spool};

use super::instance::Instance;
use crate::support::spool_options;

pub struct Bench {
    _dir: tempfile::TempDir,
    pub spool: Spool,
    ingest: Ingest,
}

/// Waits short enough for tests; the order of things is the same.
pub fn options() -> ForwardOptions {
    ForwardOptions {
        retry: RetryPolicy {
            first: Duration::from_millis(40),
            longest: Duration::from_millis(300),
            poison_after: 5,
        },
        verification: VerificationPolicy {
            linger: Duration::from_millis(50),
            report_wait: Duration::from_secs(5),
            tries: 3,
            between_tries: Duration::from_millis(50),
            ..VerificationPolicy::default()
        },
        ..ForwardOptions::new(AeTitle::parse("RELAYPACS").unwrap(), Arc::new(SystemClock))
    }
}

pub fn destination(json: serde_json::Value) -> ConfiguredDestination {
    let config: DestinationConfig = serde_json::from_value(json).unwrap();
    ConfiguredDestination { config, from_file: true, paused: false }
}

/// `port` on this machine, as the AE title ARCHIVE.
pub fn dimse(name: &str, port: u16, verify: &str) -> ConfiguredDestination {
    destination(serde_json::json!({
        "name": name, "kind": "dimse", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": port,
        "verify": verify, "timeout": "2s"
    }))
}

impl Bench {
    pub fn new() -> Bench {
        let _ = tracing_subscriber::fmt()
            .with_test_writer()
            .with_env_filter(tracing_subscriber::EnvFilter::from_env("RELAYPACS_LOG"))
            .try_init();
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::start(spool_options(dir.path()), Arc::new(SystemClock)).unwrap();
        let ingest = Ingest::new(spool.clone(), Arc::new(SystemClock), ingest_options());
        Bench { _dir: dir, spool, ingest }
    }

    /// What is received from now on comes so much later than it does.
    pub fn receive_later(&mut self, by: Duration) {
        let clock = Arc::new(ManualClock::default());
        clock.advance(Duration::from_millis(SystemClock.now().0) + by);
        self.ingest = Ingest::new(self.spool.clone(), clock, ingest_options());
    }

    pub async fn forward(&self, destinations: Vec<ConfiguredDestination>) -> Forward {
        self.forward_by(destinations, Vec::new()).await.unwrap()
    }

    pub async fn forward_by(
        &self,
        destinations: Vec<ConfiguredDestination>,
        rules: Vec<RuleConfig>,
    ) -> Result<Forward, ForwardError> {
        Forward::start(self.spool.clone(), options(), Setup { destinations, rules }).await
    }

    /// To one destination that is left alone for up to an hour once it is down.
    pub async fn forward_once(&self, destination: ConfiguredDestination) -> Forward {
        let hour = Duration::from_secs(3600);
        let retry = RetryPolicy { first: hour, longest: hour, ..options().retry };
        let setup = Setup { destinations: vec![destination], rules: Vec::new() };
        Forward::start(self.spool.clone(), ForwardOptions { retry, ..options() }, setup).await.unwrap()
    }

    pub async fn receive(&self, instance: &Instance) -> EntryId {
        let uid = |text: &str| Uid::parse(text).unwrap();
        let chunk = Ok(Bytes::copy_from_slice(&instance.data_set));
        let mut bytes = std::pin::pin!(stream::iter([chunk]));
        let offer = Offer {
            origin: Origin::Dimse {
                calling_ae_title: AeTitle::parse("CT_1").unwrap(),
                called_ae_title: AeTitle::parse("RELAYPACS").unwrap(),
                peer: "127.0.0.1".parse().unwrap(),
            },
            form: Form::DataSet {
                affected_sop_class_uid: uid(instance.sop_class),
                affected_sop_instance_uid: uid(&instance.uid),
                transfer_syntax: TransferSyntax::by_uid("1.2.840.10008.1.2.1").unwrap(),
            },
            bytes: bytes.as_mut(),
            expected_length: None,
        };
        self.ingest.accept(offer).await.unwrap().entry
    }

    pub async fn receive_all(&self, instances: &[Instance]) -> Vec<EntryId> {
        let mut entries = Vec::new();
        for instance in instances {
            entries.push(self.receive(instance).await);
        }
        entries
    }

    pub async fn delivery(&self, entry: EntryId, destination: &str) -> Option<Delivery> {
        let deliveries = self.spool.deliveries_of(entry).await.ok()?;
        deliveries.into_iter().find(|delivery| delivery.destination == destination)
    }

    pub fn count(&self, destination: &str, state: DeliveryState) -> usize {
        self.spool.counts().of(destination, state) as usize
    }

    /// Waits until so many deliveries of a destination are in a state.
    pub async fn until(&self, destination: &str, state: DeliveryState, count: usize) {
        let what = || {
            let counts = self.spool.counts();
            format!("{count} {state:?} for {destination}; {:?}", counts.deliveries.get(destination))
        };
        eventually(what, || async { self.count(destination, state) == count }).await;
    }
}

fn ingest_options() -> IngestOptions {
    IngestOptions { object_limit: 1 << 30, ..IngestOptions::default() }
}

/// Waits for a condition, at most a generous while.
pub async fn eventually<F: Future<Output = bool>>(what: impl Fn() -> String, condition: impl Fn() -> F) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain for {}", what());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
