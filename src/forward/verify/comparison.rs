//! Fetches an object back from a DICOMweb destination and compares it: the only proof where a UID
//! is not evidence. The data set must have the SHA-256 that it had when it was received.

use bytes::BytesMut;
use reqwest::{Method, Response, StatusCode};
use sha2::{Digest as _, Sha256};

use super::Trouble;
use crate::dicom::part10::{self, MetaProgress};
use crate::forward::destination::{Failure, WebPeer};
use crate::forward::http::{self, WebClient};
use crate::spool::SpoolEntry;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    Same,
    Different,
    Absent,
    /// It can't be fetched as it is stored.
    Impossible,
}

pub async fn compare(peer: &WebPeer, entry: &SpoolEntry) -> Result<Compared, Trouble> {
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
    let fetch = fetch(response, Part::new(boundary, entry.data_set_length));
    match tokio::time::timeout(longest(peer, entry), fetch).await {
        Ok(fetched) => Ok(compared(fetched?, entry)),
        Err(_) => Err(http::no_answer(peer.timeout).into()),
    }
}

/// At least 1 MiB a second.
fn longest(peer: &WebPeer, entry: &SpoolEntry) -> std::time::Duration {
    peer.timeout + std::time::Duration::from_secs(entry.data_set_length >> 20)
}

fn compared(fetched: Fetched, entry: &SpoolEntry) -> Compared {
    match fetched {
        Fetched::DataSet(digest) if digest == entry.data_set_sha256.0 => Compared::Same,
        Fetched::DataSet(_) | Fetched::OtherLength => Compared::Different,
        Fetched::NotPart10 => Compared::Impossible,
    }
}

async fn fetch(mut response: Response, mut part: Part) -> Result<Fetched, Failure> {
    while let Some(chunk) = response.chunk().await.map_err(|error| http::unreachable(&error))? {
        if let Some(fetched) = part.push(&chunk) {
            return Ok(fetched);
        }
    }
    Ok(part.finish())
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fetched {
    DataSet([u8; 32]),
    OtherLength,
    NotPart10,
}

/// Reads the first part of a multipart answer as a Part 10 file whose data set has a known length:
/// what follows it must be the boundary.
struct Part {
    boundary: String,
    length: u64,
    state: State,
}

enum State {
    /// Part header and file meta.
    Head(BytesMut),
    DataSet {
        hasher: Sha256,
        left: u64,
    },
    Behind {
        digest: [u8; 32],
        bytes: BytesMut,
    },
}

/// Part header and file meta together.
const LONGEST_HEAD: usize = 128 << 10;

impl Part {
    fn new(boundary: String, length: u64) -> Part {
        Part { boundary, length, state: State::Head(BytesMut::new()) }
    }

    /// Takes the next bytes of the body; `Some` when nothing more is needed.
    fn push(&mut self, mut bytes: &[u8]) -> Option<Fetched> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Head(head) => {
                    head.extend_from_slice(bytes);
                    let head = std::mem::take(head);
                    return self.read_head(head);
                }
                State::DataSet { hasher, left } => {
                    let (ours, behind) =
                        bytes.split_at(bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX)));
                    hasher.update(ours);
                    *left -= ours.len() as u64;
                    bytes = behind;
                    if *left == 0 {
                        let digest = hasher.finalize_reset().into();
                        self.state = State::Behind { digest, bytes: BytesMut::new() };
                    }
                }
                State::Behind { digest, bytes: behind } => {
                    behind.extend_from_slice(bytes);
                    let expected = format!("\r\n--{}", self.boundary);
                    if behind.len() < expected.len() {
                        return None;
                    }
                    let ends = behind.starts_with(expected.as_bytes());
                    return Some(if ends { Fetched::DataSet(*digest) } else { Fetched::OtherLength });
                }
            }
        }
        None
    }

    fn read_head(&mut self, head: BytesMut) -> Option<Fetched> {
        let begin = head.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        match begin.map(|begin| part10::read_meta(&head[begin..])) {
            Some(Ok(MetaProgress::Complete(meta))) => {
                let data_set =
                    head.get(begin.unwrap_or(0) + meta.data_set_offset..).unwrap_or_default().to_vec();
                self.state = State::DataSet { hasher: Sha256::new(), left: self.length };
                self.push(&data_set)
            }
            Some(Err(_)) => Some(Fetched::NotPart10),
            _ if head.len() > LONGEST_HEAD => Some(Fetched::NotPart10),
            _ => {
                self.state = State::Head(head);
                None
            }
        }
    }

    /// The body ended before the boundary that closes the part.
    fn finish(self) -> Fetched {
        match self.state {
            State::Head(_) => Fetched::NotPart10,
            State::DataSet { .. } | State::Behind { .. } => Fetched::OtherLength,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::Uid;

    const DATA_SET: &[u8] = b"\x08\0\x16\0UI\x04\x001.9\0";

    fn body(data_set: &[u8]) -> Vec<u8> {
        let uid = |text| Uid::parse(text).unwrap();
        let prefix = part10::prefix(&uid("1.9"), &uid("1.2.3"), "1.2.840.10008.1.2.1", None);
        let head = b"--b\r\nContent-Type: application/dicom\r\n\r\n";
        [head.as_slice(), &prefix, data_set, b"\r\n--b--\r\n"].concat()
    }

    /// Pushes the body in pieces of every size.
    fn read(body: &[u8]) -> Fetched {
        let results: Vec<Fetched> = [1, 2, 7, 64, body.len()]
            .into_iter()
            .map(|size| {
                let mut part = Part::new("b".into(), DATA_SET.len() as u64);
                body.chunks(size).find_map(|chunk| part.push(chunk)).unwrap_or_else(|| part.finish())
            })
            .collect();
        assert!(results.iter().all(|result| *result == results[0]), "{results:?}");
        results[0]
    }

    #[test]
    fn the_data_set_alone_is_hashed() {
        assert_eq!(read(&body(DATA_SET)), Fetched::DataSet(Sha256::digest(DATA_SET).into()));
    }

    #[test]
    fn longer_shorter_and_broken_off_data_sets_are_different() {
        assert_eq!(read(&body(&[DATA_SET, b"\0\0"].concat())), Fetched::OtherLength);
        assert_ne!(read(&body(&DATA_SET[2..])), Fetched::DataSet(Sha256::digest(DATA_SET).into()));
        let whole = body(DATA_SET);
        assert_eq!(read(&whole[..whole.len() - 12]), Fetched::OtherLength);
    }

    #[test]
    fn the_boundary_is_read_from_the_content_type() {
        let written = "multipart/related; type=\"application/dicom\"; boundary=\"b-1\"";
        assert_eq!(boundary(written).as_deref(), Some("b-1"));
        assert_eq!(boundary("application/dicom"), None);
    }
}
