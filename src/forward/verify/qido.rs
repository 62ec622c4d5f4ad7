//! Asks a DICOMweb destination by QIDO-RS (PS3.18 §10.6) which of some objects it lists.

use std::sync::Arc;

use reqwest::StatusCode;
use serde_json::Value;

use super::catalogue::{Catalogue, Lists, Series, Unanswered};
use super::{Asked, Trouble};
use crate::dicom::Uid;
use crate::forward::destination::{Failure, WebPeer};
use crate::forward::http::WebClient;
use crate::spool::SpoolEntry;

pub(super) async fn ask(
    peer: &WebPeer,
    lists: &Lists,
    entries: &[Arc<SpoolEntry>],
) -> Result<Asked, Trouble> {
    let client = WebClient::new(peer.clone())?;
    Asked::of(Catalogue::Web(Qido(&client)).listed(lists, entries).await)
}

pub struct Qido<'a>(pub &'a WebClient);

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Unanswered::Failed(failure.reason)
    }
}

impl Qido<'_> {
    /// SOP Instance UIDs of the series that are among `instances`.
    pub async fn list(&self, series: Series<'_>, instances: &[&Uid]) -> Result<Vec<Uid>, Unanswered> {
        let uids: Vec<&str> = instances.iter().map(|uid| uid.as_str()).collect();
        let keys = format!("SOPInstanceUID={}&limit={}", uids.join(","), instances.len());
        self.search(series, &keys).await
    }

    pub async fn some_of(&self, series: Series<'_>) -> Result<Vec<Uid>, Unanswered> {
        self.search(series, "limit=2").await
    }

    async fn search(&self, (study, series): Series<'_>, keys: &str) -> Result<Vec<Uid>, Unanswered> {
        let path = format!("/studies/{study}/series/{series}/instances?{keys}");
        let (status, body) = self.0.get_json(&path).await?;
        match status {
            StatusCode::NO_CONTENT => Ok(Vec::new()),
            // No such study, or no such service?
            StatusCode::NOT_FOUND => match self.0.get_json("/studies?limit=1").await? {
                (StatusCode::NOT_FOUND, _) => Err(Unanswered::NotOffered("no QIDO-RS at its URL".into())),
                _ => Ok(Vec::new()),
            },
            status if status.is_success() => listed(&body)
                .ok_or_else(|| Unanswered::Failed("its answer to QIDO-RS is not DICOM JSON".into())),
            status => Err(Unanswered::Failed(format!("QIDO-RS was answered HTTP {}", status.as_u16()))),
        }
    }
}

/// The SOP Instance UIDs of a QIDO answer.
pub fn listed(body: &[u8]) -> Option<Vec<Uid>> {
    if body.is_empty() {
        return Some(Vec::new());
    }
    let json: Value = serde_json::from_slice(body).ok()?;
    let uid = |item: &Value| {
        let value = item.get("00080018")?.get("Value")?.get(0)?.as_str()?;
        Uid::parse(value).ok()
    };
    Some(json.as_array()?.iter().filter_map(uid).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_lists_instances_or_is_no_answer() {
        let one = br#"[{"00080018":{"vr":"UI","Value":["1.2.3"]}},{"0020000D":{"vr":"UI"}}]"#;
        assert_eq!(listed(one).unwrap(), [Uid::parse("1.2.3").unwrap()]);
        assert_eq!(listed(b"[]").unwrap(), []);
        assert_eq!(listed(b"").unwrap(), []);
        assert!(listed(b"<html>").is_none());
        assert!(listed(b"{}").is_none());
    }
}
