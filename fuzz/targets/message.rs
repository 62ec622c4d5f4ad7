//! Messages out of presentation data values: commands assembled, data sets handed on fragment by
//! fragment (PS3.8 annex E, PS3.7 §6.3.1). The framing is right here, so that every input gets to the
//! assembly; `pdu` has the framing.

use std::time::Duration;

use relaypacs::dicom::Uid;
use relaypacs::dimse::associate::AssociateAccept;
use relaypacs::dimse::command::{Command, field};
use relaypacs::dimse::message::{MessageLimits, MessageStream, Received};
use relaypacs::dimse::pdu::{PduError, PduStream};

use super::wire::{Spoken, block_on};
use super::{begins_with, same_in_all_chunks, split};

const MAX_PDU: u32 = 16 << 10;
const ACCEPTED: [u8; 2] = [1, 3];
/// What `read_data_set` may hold.
const LIMIT: usize = 64;

/// The first byte chooses chunks and what is done with data sets; the rest is taken by [`frame`].
pub fn run(data: &[u8]) {
    let (choice, steps) = split(data);
    let bytes = frame(steps);
    let told =
        same_in_all_chunks(choice / 4, bytes.len(), |chunk| block_on(converse(&bytes, chunk, choice % 4)));
    let received: usize = told.iter().map(|told| told.data_set).sum();
    assert!(received <= steps.len(), "{received} bytes of data sets out of {}", steps.len());
}

/// Each step: what it is, a length, so many bytes of value. The low two bits are those of the message
/// control header, the next one begins another PDU, two choose the context, and the highest three
/// something else than a value now and then.
fn frame(mut steps: &[u8]) -> Vec<u8> {
    let (mut bytes, mut body) = (Vec::new(), Vec::new());
    while let Some((&[what, length], rest)) = steps.split_first_chunk::<2>() {
        let (value, rest) = rest.split_at(usize::from(length).min(rest.len()));
        steps = rest;
        let other = match what >> 5 {
            6 => Some([5, 0, 0, 0, 0, 4, 0, 0, 0, 0]),
            7 => Some([7, 0, 0, 0, 0, 4, 0, 0, 0, 0]),
            _ => None,
        };
        if what & 4 != 0 || other.is_some() || body.len() > MAX_PDU as usize / 2 {
            close(&mut bytes, &mut body);
        }
        if let Some(pdu) = other {
            bytes.extend_from_slice(&pdu);
            continue;
        }
        body.extend_from_slice(&(2 + value.len() as u32).to_be_bytes());
        body.extend_from_slice(&[[1, 3, 1, 5][usize::from(what >> 3) & 3], what & 3]);
        body.extend_from_slice(value);
    }
    close(&mut bytes, &mut body);
    bytes
}

fn close(bytes: &mut Vec<u8>, body: &mut Vec<u8>) {
    if !body.is_empty() {
        bytes.extend_from_slice(&[4, 0]);
        bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
        bytes.append(body);
    }
}

#[derive(Debug, PartialEq)]
struct Told {
    what: String,
    /// Bytes that were handed on.
    data_set: usize,
}

async fn converse(bytes: &[u8], chunk: usize, habit: u8) -> Vec<Told> {
    let mut pdus = PduStream::new(Spoken::new(bytes, chunk), MAX_PDU).expect("memory has no socket options");
    pdus.send_accept(&AssociateAccept::default()).await.expect("memory takes all");
    let limits = MessageLimits {
        presentation_context_ids: ACCEPTED.to_vec(),
        max_outgoing_pdu: MAX_PDU,
        idle: Duration::from_secs(3600),
    };
    let mut messages = MessageStream::new(pdus, limits);
    let mut told = Vec::new();
    loop {
        match one(&mut messages, habit).await {
            Ok(Some(one)) => told.push(one),
            Ok(None) => return told,
            Err(error) => {
                assert!(!matches!(error, PduError::TimedOut | PduError::Io(_)), "{error}");
                told.push(Told { what: error.to_string(), data_set: 0 });
                return told;
            }
        }
    }
}

async fn one(messages: &mut MessageStream<Spoken>, habit: u8) -> Result<Option<Told>, PduError> {
    let Received::Command { presentation_context_id, command } = messages.next().await? else {
        return Ok(None);
    };
    assert!(ACCEPTED.contains(&presentation_context_id));
    assert_ne!(command.command_field, field::C_CANCEL_RQ, "there is nothing to cancel");
    check(&command);
    let mut data_set = 0;
    let mut begins = Vec::new();
    match habit {
        0 => {
            while let Some(fragment) = messages.next_fragment().await? {
                assert!(!fragment.is_empty());
                let is_store = command.command_field == field::C_STORE_RQ;
                super::plant(|| is_store && begins_with(&fragment, b"PLNT"));
                begins.push(fragment[0]);
                data_set += fragment.len();
            }
        }
        1 => {
            let whole = messages.read_data_set(LIMIT).await?.unwrap_or_default();
            assert!(whole.len() <= LIMIT);
            data_set = whole.len();
        }
        2 => {
            let message_id = command.message_id.unwrap_or_default();
            while messages.next_fragment().await?.is_some() {}
            begins.push(u8::from(messages.poll_cancel(message_id).await?));
        }
        _ => {}
    }
    assert!(command.has_data_set || data_set == 0, "a data set that no command announced");
    Ok(Some(Told { what: format!("{presentation_context_id} {command:?} {begins:?}"), data_set }))
}

/// A command reads as it was written, but for the comment, which is cut to what LO can hold.
fn check(command: &Command) {
    let written = command.encode();
    assert!(written.len().is_multiple_of(2));
    let again = Command::decode(&written).expect("what we wrote");
    assert_eq!(again, Command { error_comment: again.error_comment.clone(), ..command.clone() });
    assert_eq!(Command::decode(&again.encode()), Ok(again), "written twice");
}

pub fn seeds() -> Vec<Vec<u8>> {
    let uid = |text: &str| Uid::parse(text).expect("a UID");
    let store = Command::c_store_rq(7, &uid("1.2.840.10008.5.1.4.1.1.2"), &uid("1.2.3")).encode();
    let step = |what: u8, bytes: &[u8]| [&[what, bytes.len() as u8][..], bytes].concat();
    let cancel = Command::c_cancel_rq(8).encode();
    let find = Command::c_find_rq(8, "1.2.840.10008.5.1.4.1.2.2.1").encode();
    let of = |choice: u8, steps: &[Vec<u8>]| [&[choice][..], &steps.concat()].concat();
    vec![
        of(
            0,
            &[
                step(3, &store),
                step(0, b"first"),
                step(6, b"second"),
                step(3, &Command::c_echo_rq(8).encode()),
            ],
        ),
        of(4, &[step(1, &store[..20]), step(7, &store[20..]), step(2, b"whole"), step(0xC0, b"")]),
        of(1, &[step(3, &store), step(2, &[7; 80]), step(0xE0, b"")]),
        of(2, &[step(3, &find), step(2, b"key"), step(3, &cancel), step(3, &find), step(2, b"key")]),
        of(3, &[step(11, &store), step(8, b"unread"), step(10, b""), step(27, &store)]),
    ]
}
