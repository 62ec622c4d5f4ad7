//! Ingest over a real spool, with data sets made by hand.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;

use super::*;
use crate::clock::SystemClock;
use crate::dicom::part10;
use crate::spool::{CheckBy, SpoolOptions};

const PRIVATE_SYNTAX: &str = "1.2.840.113619.5.2";
const SECONDARY_CAPTURE: &str = "1.2.840.10008.5.1.4.1.1.7";

fn uid(text: &str) -> Uid {
    Uid::parse(text).unwrap()
}

fn element(group: u16, element: u16, vr: &str, value: &str) -> Vec<u8> {
    let pad = if vr == "UI" { '\0' } else { ' ' };
    let mut value = value.to_owned();
    if value.len() % 2 == 1 {
        value.push(pad);
    }
    let mut out = Vec::new();
    out.extend(group.to_le_bytes());
    out.extend(element.to_le_bytes());
    out.extend(vr.as_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend(value.as_bytes());
    out
}

fn data_set(sop_instance: &str) -> Vec<u8> {
    [
        element(0x0008, 0x0016, "UI", SECONDARY_CAPTURE),
        element(0x0008, 0x0018, "UI", sop_instance),
        element(0x0008, 0x0060, "CS", "OT"),
        element(0x0010, 0x0020, "LO", "P1"),
        element(0x0020, 0x000d, "UI", "1.2.3"),
        element(0x0020, 0x000e, "UI", "1.2.3.4"),
    ]
    .concat()
}

struct Bench {
    _dir: tempfile::TempDir,
    spool: Spool,
    ingest: Ingest,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let options = SpoolOptions {
        dir: dir.path().to_owned(),
        inline_limit: 1 << 20,
        segment_size: 4 << 20,
        retention: Duration::from_secs(60),
        high_watermark: 0.999,
        critical_watermark: 1.0,
        sync: true,
        any_file_system: true,
    };
    let spool = Spool::start(options, Arc::new(SystemClock)).unwrap();
    let options = IngestOptions {
        object_limit: 4096,
        transfer_syntaxes: TransferSyntaxes::with_private(&[PRIVATE_SYNTAX.to_owned()]),
        ..IngestOptions::default()
    };
    let ingest = Ingest::new(spool.clone(), Arc::new(SystemClock), options);
    Bench { _dir: dir, spool, ingest }
}

async fn offer(ingest: &Ingest, form: Form, bytes: &[u8], chunk: usize) -> Result<Receipt, Refusal> {
    let chunks: Vec<_> = bytes.chunks(chunk).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    let mut stream = std::pin::pin!(stream::iter(chunks));
    let origin = Origin::Stow { account: "test".into(), peer: None };
    ingest.accept(Offer { origin, form, bytes: stream.as_mut(), expected_length: None }).await
}

fn as_data_set(sop_class: &str, sop_instance: &str) -> Form {
    Form::DataSet {
        affected_sop_class_uid: uid(sop_class),
        affected_sop_instance_uid: uid(sop_instance),
        transfer_syntax: TransferSyntax::by_uid("1.2.840.10008.1.2.1").unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_set_and_a_file_of_it_are_the_same_object() {
    let bench = bench();
    let bytes = data_set("1.2.3.4.5");
    let first = offer(&bench.ingest, as_data_set(SECONDARY_CAPTURE, "1.2.3.4.5"), &bytes, 7).await.unwrap();
    assert_eq!(first.outcome, ReceiptOutcome::New);

    let prefix = part10::prefix(&uid(SECONDARY_CAPTURE), &uid("1.2.3.4.5"), "1.2.840.10008.1.2.1", None);
    let file = [prefix.as_ref(), &bytes].concat();
    let again = offer(&bench.ingest, Form::Part10 { study_instance_uid: None }, &file, 11).await.unwrap();
    assert_eq!((again.outcome, again.entry), (ReceiptOutcome::Duplicate, first.entry));

    let reader = bench.spool.open(first.entry, CheckBy::Sha256).await.unwrap();
    assert_eq!(reader.entry.attributes.get(dicom_dictionary_std::tags::PATIENT_ID), Some("P1"));
    let stored = reader.read(0, usize::MAX).unwrap();
    assert_eq!(stored.as_ref(), file);
    bench.spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_it_claims_is_refused() {
    let bench = bench();
    let bytes = data_set("1.2.3.4.5");
    let refusal = |form, bytes: Vec<u8>| {
        let ingest = bench.ingest.clone();
        async move { offer(&ingest, form, &bytes, 64).await.unwrap_err().code() }
    };
    assert_eq!(refusal(as_data_set(SECONDARY_CAPTURE, "1.9"), bytes.clone()).await, "SOP_INSTANCE_MISMATCH");
    let ct = "1.2.840.10008.5.1.4.1.1.2";
    assert_eq!(refusal(as_data_set(ct, "1.2.3.4.5"), bytes.clone()).await, "SOP_CLASS_MISMATCH");
    let verification = "1.2.840.10008.1.1";
    assert_eq!(refusal(as_data_set(verification, "1.2.3.4.5"), bytes.clone()).await, "UNSUPPORTED_SOP_CLASS");
    assert_eq!(refusal(as_data_set("1.2.3.4", "1.2.3.4.5"), bytes.clone()).await, "UNSUPPORTED_SOP_CLASS");
    let cut = bytes[..bytes.len() - 3].to_vec();
    assert_eq!(refusal(as_data_set(SECONDARY_CAPTURE, "1.2.3.4.5"), cut).await, "CANNOT_UNDERSTAND");
    let long = [bytes, element(0x0010, 0x4000, "LT", &"x".repeat(5000))].concat();
    assert_eq!(refusal(as_data_set(SECONDARY_CAPTURE, "1.2.3.4.5"), long).await, "TOO_LARGE");
    let form = Form::Part10 { study_instance_uid: None };
    assert_eq!(refusal(form, b"MZ not a DICOM file".repeat(100)).await, "NOT_PART10");
    assert_eq!(bench.spool.counts().objects, 0);
    bench.spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_in_a_registered_transfer_syntax_or_a_configured_private_one() {
    let bench = bench();
    for (syntax, taken) in [(PRIVATE_SYNTAX, true), ("1.2.840.113619.5.3", false)] {
        let prefix = part10::prefix(&uid(SECONDARY_CAPTURE), &uid("1.2.3.4.5"), syntax, None);
        let file = [prefix.as_ref(), &data_set("1.2.3.4.5")].concat();
        match offer(&bench.ingest, Form::Part10 { study_instance_uid: None }, &file, 64).await {
            Ok(receipt) => {
                let entry = bench.spool.entry(receipt.entry).await.unwrap();
                assert!(taken && entry.transfer_syntax_uid == syntax);
            }
            Err(refusal) => assert!(!taken && matches!(refusal, Refusal::UnsupportedTransferSyntax)),
        }
    }
    bench.spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_study_of_the_request_is_the_study_of_the_object() {
    let bench = bench();
    let prefix = part10::prefix(&uid(SECONDARY_CAPTURE), &uid("1.2.3.4.5"), "1.2.840.10008.1.2.1", None);
    let file = [prefix.as_ref(), &data_set("1.2.3.4.5")].concat();
    let other = Form::Part10 { study_instance_uid: Some(uid("1.2.4")) };
    assert!(matches!(offer(&bench.ingest, other, &file, 64).await, Err(Refusal::StudyMismatch)));
    let same = Form::Part10 { study_instance_uid: Some(uid("1.2.3")) };
    assert!(offer(&bench.ingest, same, &file, 64).await.is_ok());
    bench.spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_breaks_off_leaves_nothing() {
    let bench = bench();
    let bytes = data_set("1.2.3.4.5");
    let chunks = vec![Ok(Bytes::from(bytes)), Err(std::io::Error::other("reset"))];
    let mut stream = std::pin::pin!(stream::iter(chunks));
    let origin = Origin::Stow { account: "test".into(), peer: None };
    let form = as_data_set(SECONDARY_CAPTURE, "1.2.3.4.5");
    let offer = Offer { origin, form, bytes: stream.as_mut(), expected_length: None };
    assert!(matches!(bench.ingest.accept(offer).await, Err(Refusal::Interrupted(_))));
    assert_eq!(bench.spool.counts().objects, 0);
    bench.spool.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_again_queues_what_was_given_up() {
    let bench = bench();
    let bytes = data_set("1.2.3.4.5");
    let form = || as_data_set(SECONDARY_CAPTURE, "1.2.3.4.5");
    let id = offer(&bench.ingest, form(), &bytes, 64).await.unwrap().entry;
    let at = crate::clock::Millis(1);
    let facts = vec![
        Fact::Routed { entry: id, destinations: vec!["pacs".into()], at },
        Fact::Delivery {
            entry: id,
            destination: "pacs".into(),
            outcome: Outcome::Poisoned { reason: "A900".into() },
            at,
        },
    ];
    let position = bench.spool.append(facts, Durability::Synced).await.unwrap();
    bench.spool.applied(position).await.unwrap();
    offer(&bench.ingest, form(), &bytes, 64).await.unwrap();
    let end = bench.spool.append(Vec::new(), Durability::Synced).await.unwrap();
    bench.spool.applied(end.max(bench.spool.durable_position())).await.unwrap();
    assert_eq!(bench.spool.deliveries_of(id).await.unwrap()[0].state, DeliveryState::Queued);
    bench.spool.close();
}
