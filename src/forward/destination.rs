//! What a destination is, once its configuration has been checked, and [`Transport`]: how objects
//! get there. Two transports exist, DIMSE and STOW; scheduler and verification use them through
//! this file only.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::own_doors::OwnDoors;
use super::verify::catalogue::Unanswered;
use crate::config::{DestinationConfig, DestinationKind, Verify};
use crate::dicom::status::Status;
use crate::dicom::{AeTitle, Uid};
use crate::dimse::scu::Peer;
use crate::spool::SpoolEntry;

/// A destination whose settings make sense.
#[derive(Debug, Clone)]
pub struct Destination {
    pub name: String,
    pub reach: Reach,
    /// Where to ask by QIDO; `None`: by C-FIND at the same peer.
    pub query: Option<WebPeer>,
    pub verify: Verify,
    pub associations: usize,
    /// Objects on one association, or in one STOW request.
    pub batch: usize,
    pub timeout: Duration,
    pub verify_deadline: Duration,
    /// The settings as they were given, to see whether they changed.
    pub config: DestinationConfig,
}

#[derive(Debug, Clone)]
pub enum Reach {
    Dimse(Peer),
    Stow(WebPeer),
}

/// A DICOMweb service.
#[derive(Debug, Clone)]
pub struct WebPeer {
    /// Without a slash at its end.
    pub base: String,
    pub credentials: Credentials,
    pub timeout: Duration,
    /// What tells this node from others, for the case that it is this node after all.
    pub instance: Arc<str>,
}

/// Secrets stay in their files and are read when needed: a rotated one works without a restart.
#[derive(Debug, Clone)]
pub enum Credentials {
    None,
    Basic { username: String, password_file: PathBuf },
    Bearer { token_file: PathBuf },
}

const MOST_ASSOCIATIONS: usize = 32;
const MOST_IN_A_BATCH: usize = 10_000;

impl Destination {
    /// `Err` says which setting is missing or wrong. `own` is the node's AE title.
    pub fn new(config: DestinationConfig, own: &AeTitle, doors: &OwnDoors) -> Result<Destination, String> {
        let reach = match config.kind {
            DestinationKind::Dimse => Reach::Dimse(dimse_peer(&config, own, doors)?),
            DestinationKind::Stow => Reach::Stow(web_peer(&config, config.url.as_deref(), doors)?),
        };
        let query = match (&reach, &config.query_url) {
            (_, Some(url)) => Some(web_peer(&config, Some(url), doors)?),
            (Reach::Stow(peer), None) => Some(peer.clone()),
            (Reach::Dimse(_), None) => None,
        };
        Ok(Destination {
            name: config.name.clone(),
            reach,
            query,
            verify: config.verify,
            associations: config.associations.clamp(1, MOST_ASSOCIATIONS),
            batch: config.batch.clamp(1, MOST_IN_A_BATCH),
            timeout: config.timeout,
            verify_deadline: config.verify_deadline,
            config,
        })
    }

    pub fn kind(&self) -> &'static str {
        match self.reach {
            Reach::Dimse(_) => "dimse",
            Reach::Stow(_) => "stow",
        }
    }

    /// For people: where it is, without credentials.
    pub fn address(&self) -> String {
        match &self.reach {
            Reach::Dimse(peer) => format!("{}@{}:{}", peer.called_ae_title, peer.host, peer.port),
            Reach::Stow(peer) => peer.base.clone(),
        }
    }

    /// The AE title under which it answers, and under which its reports come.
    pub fn ae_title(&self) -> Option<&AeTitle> {
        match &self.reach {
            Reach::Dimse(peer) => Some(&peer.called_ae_title),
            Reach::Stow(_) => None,
        }
    }
}

fn dimse_peer(config: &DestinationConfig, own: &AeTitle, doors: &OwnDoors) -> Result<Peer, String> {
    let missing = |key: &str| format!("destination {:?}: kind \"dimse\" needs {key}", config.name);
    let host = config.host.clone().filter(|host| !host.is_empty()).ok_or_else(|| missing("host"))?;
    let port = config.port.filter(|port| *port != 0).ok_or_else(|| missing("port"))?;
    elsewhere(&config.name, &host, port, doors)?;
    Ok(Peer {
        host,
        port,
        called_ae_title: config.ae_title.clone().ok_or_else(|| missing("ae_title"))?,
        calling_ae_title: config.calling_ae_title.clone().unwrap_or_else(|| own.clone()),
        timeout: config.timeout,
        never: doors.listeners.clone(),
    })
}

fn elsewhere(name: &str, host: &str, port: u16, doors: &OwnDoors) -> Result<(), String> {
    if !doors.are_at(host, port) {
        return Ok(());
    }
    Err(format!(
        "destination {name:?}: {host}:{port} is this node itself: what it delivers there would count as delivered, and be freed"
    ))
}

fn web_peer(config: &DestinationConfig, url: Option<&str>, doors: &OwnDoors) -> Result<WebPeer, String> {
    let name = &config.name;
    let url = url.ok_or_else(|| format!("destination {name:?}: kind \"stow\" needs url"))?;
    let parsed = reqwest::Url::parse(url).map_err(|why| format!("destination {name:?}: url: {why}"))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(format!("destination {name:?}: its url must begin with http:// or https://"));
    }
    elsewhere(
        name,
        parsed.host_str().unwrap_or_default(),
        parsed.port_or_known_default().unwrap_or_default(),
        doors,
    )?;
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(format!("destination {name:?}: credentials belong into username and password_file"));
    }
    let credentials = match (&config.username, &config.password_file, &config.token_file) {
        (None, None, None) => Credentials::None,
        (None, None, Some(token_file)) => Credentials::Bearer { token_file: token_file.clone() },
        (Some(username), Some(password_file), None) => {
            Credentials::Basic { username: username.clone(), password_file: password_file.clone() }
        }
        _ => {
            return Err(format!(
                "destination {name:?}: give username with password_file, or token_file, or none of them"
            ));
        }
    };
    let base = parsed.as_str().trim_end_matches('/').to_owned();
    Ok(WebPeer { base, credentials, timeout: config.timeout, instance: doors.instance.clone() })
}

/// Carries objects to one destination. One per worker; keeps its connection between calls.
pub trait Transport: Send + Sync + 'static {
    /// How many objects a call of [`Transport::send`] can use.
    fn appetite(&self) -> usize;

    /// Which of `entries` it lists, before any of them has been sent.
    fn listed(&mut self, entries: &[Arc<SpoolEntry>])
    -> impl Future<Output = Result<Listed, Failure>> + Send;

    /// Sends the first of `entries`, and as many more as go in the same breath. Returns what
    /// became of each of those, in order: at least one.
    fn send(
        &mut self,
        entries: &[Arc<SpoolEntry>],
    ) -> impl Future<Output = Result<Vec<Verdict>, Failure>> + Send;

    /// Nothing is due for now: give the peer its resources back.
    fn rest(&mut self) -> impl Future<Output = ()> + Send;
}

/// What a destination says about objects that it may hold already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    These(HashSet<Uid>),
    /// It is there and offers no way to ask.
    NotOffered(String),
    /// It is there, and did not answer this.
    NoAnswer(String),
}

impl Listed {
    pub fn of(listed: Result<HashSet<Uid>, Unanswered>) -> Listed {
        match listed {
            Ok(uids) => Listed::These(uids),
            Err(Unanswered::NotOffered(reason)) => Listed::NotOffered(reason),
            Err(Unanswered::Failed(reason)) => Listed::NoAnswer(reason),
        }
    }
}

/// What the destination said about one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Taken,
    /// It answered that it holds an object with this UID already: perhaps another one.
    AlreadyThere,
    /// Not now.
    Later(String),
    /// Not this object.
    Refused(String),
    /// The request was refused as a whole; this object should be sent in a request of its own.
    SendAlone,
    /// Our own copy can't be read.
    Unreadable(String),
}

/// The destination as a whole did not work: nothing more is sent until its back-off has passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In plain words, with what to do.
    pub reason: String,
    /// The first object was on its way: it may be what the destination dies of.
    pub during_object: bool,
    /// What the destination asked us to wait.
    pub retry_after: Option<Duration>,
}

impl Failure {
    pub fn new(reason: impl Into<String>) -> Failure {
        Failure { reason: reason.into(), during_object: false, retry_after: None }
    }

    pub fn during_object(reason: impl Into<String>) -> Failure {
        Failure { during_object: true, ..Failure::new(reason) }
    }
}

impl Verdict {
    /// C-STORE response status (PS3.4 §B.2.3, PS3.7 §C) or FailureReason of STOW-RS (PS3.18
    /// §I.2.2). What is neither success nor known to pass by itself is refused: five tries, then
    /// a person looks.
    pub fn of_status(status: Status) -> Verdict {
        match status.0 {
            0x0000 => Verdict::Taken,
            _ if status.is_warning() => Verdict::Taken,
            0x0111 => Verdict::AlreadyThere,
            0x0110 | 0x0213 | 0xA700..=0xA7FF | 0xFE00 => Verdict::Later(format!("answered {status}")),
            _ => Verdict::Refused(format!("answered {status}{}", meaning(status))),
        }
    }
}

fn meaning(status: Status) -> &'static str {
    match status.0 {
        0x0117 => " (invalid SOP instance)",
        0x0118 | 0x0122 => " (SOP class not supported)",
        0x0124 => " (not authorized)",
        0xA900..=0xA9FF => " (data set does not match SOP class)",
        0xC000..=0xCFFF => " (cannot understand)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn config(json: &str) -> DestinationConfig {
        serde_json::from_str(json).unwrap()
    }

    fn destination(json: &str) -> Result<Destination, String> {
        let doors = OwnDoors::new(["127.0.0.1:8080".parse().unwrap()]);
        Destination::new(config(json), &AeTitle::parse("RELAYPACS").unwrap(), &doors)
    }

    #[test]
    fn a_dimse_destination_calls_with_the_nodes_title_unless_told() {
        let base = r#"{"name":"a","kind":"dimse","ae_title":"PACS","host":"h","port":104"#;
        let Reach::Dimse(peer) = destination(&format!("{base}}}")).unwrap().reach else { panic!() };
        assert_eq!(peer.calling_ae_title.as_str(), "RELAYPACS");
        let told = format!(r#"{base},"calling_ae_title":"GATE"}}"#);
        let Reach::Dimse(peer) = destination(&told).unwrap().reach else { panic!() };
        assert_eq!(peer.calling_ae_title.as_str(), "GATE");
    }

    #[test]
    fn the_node_itself_is_no_destination() {
        for json in [
            r#"{"name":"a","kind":"dimse","ae_title":"P","host":"localhost","port":8080}"#,
            r#"{"name":"a","kind":"stow","url":"http://127.0.0.1:8080/dicom-web"}"#,
            r#"{"name":"a","kind":"dimse","ae_title":"P","host":"h","port":104,"query_url":"http://localhost:8080/x"}"#,
        ] {
            assert!(destination(json).unwrap_err().contains("is this node itself"), "{json}");
        }
    }

    #[test]
    fn what_is_missing_or_contradictory_is_named() {
        for (json, word) in [
            (r#"{"name":"a","kind":"dimse","ae_title":"P","host":"h"}"#, "port"),
            (r#"{"name":"a","kind":"dimse","host":"h","port":104}"#, "ae_title"),
            (r#"{"name":"a","kind":"stow"}"#, "url"),
            (r#"{"name":"a","kind":"stow","url":"ftp://h/"}"#, "http"),
            (r#"{"name":"a","kind":"stow","url":"http://u:p@h/"}"#, "password_file"),
            (r#"{"name":"a","kind":"stow","url":"http://h/","username":"u"}"#, "password_file"),
        ] {
            let error = destination(json).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_web_destination_is_asked_where_it_is_sent_to() {
        let stow = destination(r#"{"name":"a","kind":"stow","url":"http://h/dicom-web/"}"#).unwrap();
        assert_eq!(stow.query.unwrap().base, "http://h/dicom-web");
    }

    #[test]
    fn statuses_are_sorted_into_taken_later_and_refused() {
        let of = |code| Verdict::of_status(Status(code));
        for taken in [0x0000, 0xB000, 0xB006, 0xB007, 0x0107] {
            assert_eq!(of(taken), Verdict::Taken, "{taken:04X}");
        }
        assert_eq!(of(0x0111), Verdict::AlreadyThere);
        for later in [0x0110, 0x0213, 0xA700, 0xA7FF] {
            assert!(matches!(of(later), Verdict::Later(_)), "{later:04X}");
        }
        for refused in [0x0117, 0x0122, 0x0124, 0xA900, 0xA901, 0xC000, 0xC123, 0x0211] {
            assert!(matches!(of(refused), Verdict::Refused(_)), "{refused:04X}");
        }
    }
}
