//! Asks a DICOMweb destination by QIDO-RS (PS3.18 §10.6) which of some objects it holds.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use reqwest::StatusCode;
use serde_json::Value;

use super::{Asked, Trouble};
use crate::dicom::{InstanceKey, Uid};
use crate::forward::destination::WebPeer;
use crate::forward::http::WebClient;
use crate::spool::SpoolEntry;

/// UIDs in one question: its answer stays far below the limit, its URL short.
const LIST: usize = 20;

pub async fn ask(peer: &WebPeer, entries: &[Arc<SpoolEntry>]) -> Result<Asked, Trouble> {
    let client = WebClient::new(peer.clone())?;
    let mut series: BTreeMap<(&Uid, &Uid), Vec<&InstanceKey>> = BTreeMap::new();
    for entry in entries {
        let key = &entry.key;
        series.entry((&key.study_instance_uid, &key.series_instance_uid)).or_default().push(key);
    }
    let mut found = HashSet::new();
    for keys in series.values() {
        for list in keys.chunks(LIST) {
            let mut lists = vec![list];
            // What a list does not find is asked for alone: not every service knows lists.
            while let Some(list) = lists.pop() {
                match instances(&client, list).await? {
                    Some(uids) => found.extend(uids),
                    None => return Ok(Asked::NotOffered("no QIDO-RS at its URL".into())),
                }
                if list.len() > 1 {
                    let missing =
                        list.iter().enumerate().filter(|(_, key)| !found.contains(&key.sop_instance_uid));
                    lists.extend(missing.map(|(at, _)| &list[at..=at]));
                }
            }
        }
    }
    Ok(Asked::Present(found))
}

/// SOP Instance UIDs that the service lists; `None` where there is no such service.
async fn instances(client: &WebClient, keys: &[&InstanceKey]) -> Result<Option<Vec<Uid>>, Trouble> {
    let [first, ..] = keys else { return Ok(Some(Vec::new())) };
    let uids: Vec<&str> = keys.iter().map(|key| key.sop_instance_uid.as_str()).collect();
    let path = format!(
        "/studies/{}/series/{}/instances?SOPInstanceUID={}&limit={}",
        first.study_instance_uid,
        first.series_instance_uid,
        uids.join(","),
        keys.len()
    );
    let (status, body) = client.get_json(&path).await?;
    match status {
        StatusCode::NO_CONTENT => Ok(Some(Vec::new())),
        // No such study, or no such service?
        StatusCode::NOT_FOUND => {
            let (status, _) = client.get_json("/studies?limit=1").await?;
            Ok((status != StatusCode::NOT_FOUND).then(Vec::new))
        }
        status if status.is_success() => match listed(&body) {
            Some(uids) => Ok(Some(uids)),
            None => Err(Trouble::Failed("its answer to QIDO-RS is not DICOM JSON".into())),
        },
        status => Err(Trouble::Failed(format!("QIDO-RS was answered HTTP {}", status.as_u16()))),
    }
}

/// The SOP Instance UIDs of a QIDO answer.
fn listed(body: &[u8]) -> Option<Vec<Uid>> {
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
