//! PDUs as they come off a connection, in every phase of an association (PS3.8 §9.3).

use relaypacs::dimse::associate::AssociateAccept;
use relaypacs::dimse::pdu::{AbortReason, DataValue, Incoming, MAX_ASSOCIATION_PDU, PduError, PduStream};

use super::wire::{Spoken, block_on};
use super::{begins_with, same_in_all_chunks, split};

const MAX_PDU: u32 = 16 << 10;
const HEADER: usize = 6;

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    AwaitingRequest,
    AwaitingAnswer,
    Established,
}

/// The first byte chooses phase and chunks.
pub fn run(data: &[u8]) {
    let (choice, bytes) = split(data);
    let phase = [Phase::AwaitingRequest, Phase::AwaitingAnswer, Phase::Established][usize::from(choice % 3)];
    let read =
        same_in_all_chunks(choice / 3, bytes.len(), |chunk| block_on(receive_all(phase, bytes, chunk)));
    let taken: usize = read.sizes.iter().sum();
    assert!(taken <= bytes.len(), "{taken} bytes of PDUs out of {}", bytes.len());
}

#[derive(Debug, PartialEq)]
struct Read {
    told: Vec<String>,
    /// Least bytes that each PDU took.
    sizes: Vec<usize>,
}

async fn receive_all(phase: Phase, bytes: &[u8], chunk: usize) -> Read {
    let spoken = Spoken::new(bytes, chunk);
    let mut pdus = match phase {
        Phase::AwaitingAnswer => PduStream::requesting(spoken, MAX_PDU),
        Phase::AwaitingRequest | Phase::Established => PduStream::new(spoken, MAX_PDU),
    }
    .expect("memory has no socket options");
    if phase == Phase::Established {
        pdus.send_accept(&AssociateAccept::default()).await.expect("memory takes all");
    }
    let mut read = Read { told: Vec::new(), sizes: Vec::new() };
    loop {
        match pdus.receive().await {
            Ok(incoming) => {
                read.sizes.push(HEADER + size(&incoming));
                read.told.push(format!("{incoming:?}"));
                check(phase, read.sizes.len(), incoming).await;
            }
            Err(error) => {
                // AA-1 in Sta2 (PS3.8 §9.2); nobody is left to hear of a connection that is closed.
                if phase == Phase::AwaitingRequest {
                    assert!(error.abort_reason().is_none_or(|abort| abort == AbortReason::SERVICE_USER));
                }
                assert!(!matches!(error, PduError::TimedOut | PduError::Io(_)), "{error}");
                read.told.push(error.to_string());
                return read;
            }
        }
    }
}

/// Least length of the variable field.
fn size(incoming: &Incoming) -> usize {
    match incoming {
        Incoming::Data(values) => values.clone().map(|value| 6 + value.data.len()).sum(),
        Incoming::AssociateRequest(_) | Incoming::AssociateAccept(_) => 68,
        Incoming::AssociateReject { .. } | Incoming::Other(_) => 4,
    }
}

async fn check(phase: Phase, count: usize, incoming: Incoming) {
    match incoming {
        Incoming::Data(values) => {
            assert!(phase == Phase::Established || phase == Phase::AwaitingAnswer && count > 1);
            let values: Vec<DataValue> = values.collect();
            super::plant(|| values.iter().any(|value| begins_with(&value.data, b"\xDE\xAD\xBE\xEF")));
            assert!(!values.is_empty(), "a P-DATA-TF has a value");
            let length: usize = values.iter().map(|value| 6 + value.data.len()).sum();
            assert!(length <= MAX_PDU as usize, "longer than what was announced");
        }
        Incoming::AssociateRequest(request) => {
            assert!(phase == Phase::AwaitingRequest);
            assert!(request.encode().len() <= 2 * MAX_ASSOCIATION_PDU as usize);
        }
        Incoming::AssociateAccept(_) | Incoming::AssociateReject { .. } => {
            assert!(phase == Phase::AwaitingAnswer);
        }
        Incoming::Other(_) => {}
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let pdu = |choice: u8, kind: u8, body: &[u8]| {
        [&[choice, kind, 0][..], &(body.len() as u32).to_be_bytes(), body].concat()
    };
    let value = |context: u8, control: u8, bytes: &[u8]| {
        [&(2 + bytes.len() as u32).to_be_bytes()[..], &[context, control], bytes].concat()
    };
    let data = [value(1, 3, b"command"), value(3, 0, b"one "), value(3, 2, b"two ")].concat();
    vec![
        pdu(0, 1, &super::association::request()),
        pdu(1, 2, &super::association::accept()),
        pdu(1, 3, &[0, 1, 1, 7]),
        pdu(2, 4, &data),
        pdu(5, 4, &value(5, 2, &[0x55; 300])),
        pdu(2, 5, &[0; 4]),
        pdu(8, 7, &[0, 0, 2, 6]),
        pdu(2, 6, &[0; 4]),
    ]
}
