//! Fetches an object back from a DICOMweb destination (WADO-RS, PS3.18 §10.4) and compares it while
//! it comes.

use bytes::BytesMut;
use memchr::memmem;
use reqwest::{Method, Response, StatusCode};

use super::Trouble;
use super::comparison::{Compared, Fetched, longest};
use crate::dicom::TransferSyntax;
use crate::dicom::part10::{self, MetaProgress};
use crate::forward::destination::{Failure, WebPeer};
use crate::forward::http::{self, WebClient};
use crate::spool::{Spool, SpoolEntry};

pub async fn compare(peer: &WebPeer, spool: &Spool, entry: &SpoolEntry) -> Result<Compared, Trouble> {
    let Some(syntax) = TransferSyntax::by_uid(&entry.transfer_syntax_uid) else {
        return Ok(Compared::Impossible);
    };
    let client = WebClient::new(peer.clone())?;
    let key = &entry.key;
    let path = format!(
        "/studies/{}/series/{}/instances/{}",
        key.study_instance_uid, key.series_instance_uid, key.sop_instance_uid
    );
    let accept = "multipart/related; type=\"application/dicom\"; transfer-syntax=*";
    let request = client.request(Method::GET, &path).await?.header("accept", accept);
    let sent = tokio::time::timeout(peer.timeout, request.send()).await;
    let response =
        sent.map_err(|_| http::no_answer(peer.timeout))?.map_err(|error| http::unreachable(&error))?;
    match response.status() {
        StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(Compared::Absent),
        status if !status.is_success() => {
            return match http::destination_failure(status, response.headers()) {
                Some(failure) => Err(failure.into()),
                None => Ok(Compared::Impossible),
            };
        }
        _ => {}
    }
    let content_type = response.headers().get("content-type").and_then(|value| value.to_str().ok());
    let Some(boundary) = content_type.and_then(boundary) else { return Ok(Compared::Impossible) };
    let mut fetched = Fetched::new(entry, syntax);
    let mut part = Part::new(&boundary);
    let fetch = fetch(response, &mut part, |bytes| fetched.push(bytes));
    match tokio::time::timeout(longest(peer.timeout, entry), fetch).await {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => return Ok(Compared::BrokenOff(failure.reason)),
        Err(_) => return Ok(Compared::BrokenOff(http::no_answer(peer.timeout).reason)),
    }
    Ok(match part.state {
        State::Ended { transfer_syntax_uid } if transfer_syntax_uid == entry.transfer_syntax_uid => {
            fetched.compared(spool, entry).await?
        }
        State::TooLong => Compared::Different,
        State::DataSet { .. } => Compared::BrokenOff("its answer ends inside the object".into()),
        // In another transfer syntax it can't be told.
        State::Ended { .. } | State::Head(_) | State::NotPart10 => Compared::Impossible,
    })
}

async fn fetch(
    mut response: Response,
    part: &mut Part,
    mut take: impl FnMut(&[u8]) -> bool + Send,
) -> Result<(), Failure> {
    while let Some(chunk) = response.chunk().await.map_err(|error| http::unreachable(&error))? {
        if !part.push(&chunk, &mut take) {
            break;
        }
    }
    Ok(())
}

fn boundary(content_type: &str) -> Option<String> {
    let (media_type, parameters) = content_type.split_once(';')?;
    if !media_type.trim().eq_ignore_ascii_case("multipart/related") {
        return None;
    }
    parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_boundary = name.trim().eq_ignore_ascii_case("boundary");
        is_boundary.then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// Reads the first part of a multipart answer as a Part 10 file and hands its data set on, as far as
/// it is certainly not the delimiter behind it.
struct Part {
    delimiter: Vec<u8>,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Part header and file meta.
    Head(BytesMut),
    DataSet {
        transfer_syntax_uid: String,
        held: BytesMut,
    },
    Ended {
        transfer_syntax_uid: String,
    },
    NotPart10,
    /// Whoever took it had enough.
    TooLong,
}

/// Part header and file meta together.
const LONGEST_HEAD: usize = 128 << 10;

impl Part {
    fn new(boundary: &str) -> Part {
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        Part { delimiter, state: State::Head(BytesMut::new()) }
    }

    /// Takes the next bytes of the body; `false` when nothing more is needed.
    fn push(&mut self, bytes: &[u8], take: &mut impl FnMut(&[u8]) -> bool) -> bool {
        match &mut self.state {
            State::Head(head) => {
                head.extend_from_slice(bytes);
                let head = std::mem::take(head);
                self.read_head(head, take)
            }
            State::DataSet { held, .. } => {
                held.extend_from_slice(bytes);
                self.hand_on(take)
            }
            State::Ended { .. } | State::NotPart10 | State::TooLong => false,
        }
    }

    fn read_head(&mut self, head: BytesMut, take: &mut impl FnMut(&[u8]) -> bool) -> bool {
        let begin = head.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        self.state = match begin.map(|begin| (begin, part10::read_meta(&head[begin..]))) {
            Some((begin, Ok(MetaProgress::Complete(meta)))) => {
                let mut held = head;
                let _ = held.split_to(begin + meta.data_set_offset);
                self.state = State::DataSet { transfer_syntax_uid: meta.transfer_syntax_uid, held };
                return self.hand_on(take);
            }
            Some((_, Err(_))) => State::NotPart10,
            _ if head.len() > LONGEST_HEAD => State::NotPart10,
            _ => State::Head(head),
        };
        self.state != State::NotPart10
    }

    fn hand_on(&mut self, take: &mut impl FnMut(&[u8]) -> bool) -> bool {
        let State::DataSet { transfer_syntax_uid, held } = &mut self.state else { return false };
        let end = memmem::find(held, &self.delimiter);
        let certain = end.unwrap_or_else(|| held.len().saturating_sub(self.delimiter.len() - 1));
        if !take(&held.split_to(certain)) {
            self.state = State::TooLong;
        } else if end.is_some() {
            self.state = State::Ended { transfer_syntax_uid: std::mem::take(transfer_syntax_uid) };
        }
        matches!(self.state, State::DataSet { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::Uid;

    const DATA_SET: &[u8] = b"\x08\0\x16\0UI\x04\x001.9\0\r\n-\r\n--";

    fn body(data_set: &[u8]) -> Vec<u8> {
        let uid = |text| Uid::parse(text).unwrap();
        let prefix = part10::prefix(&uid("1.9"), &uid("1.2.3"), "1.2.840.10008.1.2.1", None);
        let head = b"--b\r\nContent-Type: application/dicom\r\n\r\n";
        [head.as_slice(), &prefix, data_set, b"\r\n--b--\r\n"].concat()
    }

    /// Pushes the body in pieces of every size; what was handed on, and the state at the end.
    fn read(body: &[u8], most: usize) -> (Vec<u8>, State) {
        let mut results: Vec<(Vec<u8>, State)> = [1, 2, 7, 64, body.len()]
            .into_iter()
            .map(|size| {
                let (mut part, mut taken) = (Part::new("b"), Vec::new());
                let mut take = |bytes: &[u8]| {
                    taken.extend_from_slice(bytes);
                    taken.len() <= most
                };
                let mut chunks = body.chunks(size);
                while chunks.next().is_some_and(|chunk| part.push(chunk, &mut take)) {}
                (taken, part.state)
            })
            .collect();
        assert!(most < body.len() || results.iter().all(|result| *result == results[0]), "{results:?}");
        results.swap_remove(0)
    }

    #[test]
    fn the_data_set_alone_is_handed_on() {
        let (taken, state) = read(&body(DATA_SET), usize::MAX);
        assert_eq!(taken, DATA_SET);
        assert_eq!(state, State::Ended { transfer_syntax_uid: "1.2.840.10008.1.2.1".into() });
    }

    #[test]
    fn what_breaks_off_is_too_long_or_no_file_has_no_end() {
        let whole = body(DATA_SET);
        let (_, state) = read(&whole[..whole.len() - 8], usize::MAX);
        assert!(matches!(state, State::DataSet { .. }));
        assert_eq!(read(&whole, 3).1, State::TooLong);
        assert_eq!(read(&[b"--b\r\n\r\n", &[7; 200][..]].concat(), usize::MAX).1, State::NotPart10);
    }

    #[test]
    fn the_boundary_is_read_from_the_content_type() {
        let written = "multipart/related; type=\"application/dicom\"; boundary=\"b-1\"";
        assert_eq!(boundary(written).as_deref(), Some("b-1"));
        assert_eq!(boundary("application/dicom"), None);
    }
}
