//! The configuration: one struct per section; `config/default.toml` (embedded, every key
//! commented) ← `--config FILE` ← environment `RELAYPACS__SECTION__KEY`. [`Config::load`] reads and
//! completes it, `validate` refuses what can't work; nothing else in the node reads a file or a
//! variable to learn how to behave.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod load;
pub mod secret;
pub mod units;
mod validate;

pub use load::{ConfigError, DEFAULT_TOML};
pub use validate::{destination as validate_destination, peer as validate_peer};

use crate::dicom::AeTitle;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub node: NodeConfig,
    pub dicom: DicomConfig,
    pub http: HttpConfig,
    pub telemetry: TelemetryConfig,
    pub database: DatabaseConfig,
    pub spool: SpoolConfig,
    pub cache: CacheConfig,
    pub limits: LimitsConfig,
    #[serde(default)]
    pub destinations: Vec<DestinationConfig>,
    #[serde(default)]
    pub rules: Vec<RuleConfig>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Empty: the host name.
    pub name: String,
    pub data_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admission {
    Any,
    Known,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DicomConfig {
    /// Called AE titles that this node answers to; the first is its own.
    #[serde(deserialize_with = "units::one_or_many")]
    pub ae_title: Vec<AeTitle>,
    #[serde(deserialize_with = "units::one_or_many")]
    pub listen: Vec<SocketAddr>,
    /// Left out: `any` when every listener is on loopback, else `known` ([`Config::load`] fills it).
    pub admission: Option<Admission>,
    pub open_listener: bool,
    /// Storage SOP classes that no dictionary lists: `accept` or `refuse`.
    pub unknown_sop_classes: UnknownSopClasses,
    /// Private transfer syntaxes taken as they come; their data sets are Explicit VR Little Endian.
    #[serde(deserialize_with = "units::one_or_many")]
    pub private_transfer_syntaxes: Vec<String>,
    /// Order of preference among several offered transfer syntaxes; those not listed follow in
    /// the order in which the peer offers them.
    #[serde(deserialize_with = "units::one_or_many")]
    pub transfer_syntax_preference: Vec<String>,
    #[serde(default)]
    pub peers: Vec<PeerConfig>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownSopClasses {
    Accept,
    Refuse,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    pub ae_title: AeTitle,
    /// Networks (CIDR) or addresses it may come from; empty: anywhere.
    #[serde(default)]
    pub allow: Vec<String>,
    #[serde(default)]
    pub host: Option<String>,
    #[serde(default)]
    pub port: Option<u16>,
    /// It sends in bulk and can wait: refused for now from `spool.high_watermark` on.
    #[serde(default)]
    pub bulk: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    #[serde(deserialize_with = "units::one_or_many")]
    pub listen: Vec<SocketAddr>,
    /// What clients call this node; URLs in answers are built from it, never from `Host`.
    /// Empty: `http://<first listener>`.
    pub public_url: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// `None` is written "off".
    #[serde(with = "units::address_or_off")]
    pub listen: Option<SocketAddr>,
    pub token_file: Option<PathBuf>,
    pub log: LogFormat,
    /// Filter in tracing's syntax, e.g. `info` or `relaypacs::scp=debug`.
    pub log_filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Json,
    Pretty,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `sqlite://PATH` or `postgres://USER@HOST/DATABASE`. Empty: `data_dir/relaypacs.db`.
    pub url: String,
    pub password_file: Option<PathBuf>,
    pub max_connections: u32,
    pub migrate_on_start: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpoolDurability {
    Sync,
    Relaxed,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpoolConfig {
    /// Empty: `data_dir/spool`.
    pub dir: PathBuf,
    #[serde(with = "units::bytes")]
    pub inline_limit: u64,
    #[serde(with = "units::bytes")]
    pub segment_size: u64,
    /// How long delivered objects stay as a cache.
    #[serde(with = "units::duration")]
    pub retention: Duration,
    pub high_watermark: f64,
    pub critical_watermark: f64,
    pub durability: SpoolDurability,
    pub any_file_system: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    /// Query results kept in memory.
    #[serde(with = "units::bytes")]
    pub queries: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    pub associations: usize,
    pub associations_per_peer: usize,
    pub associations_per_peer_loopback: usize,
    /// Connections a second from one address before associations are refused (RJ 2/3/1).
    pub connections_per_second: u32,
    #[serde(with = "units::bytes")]
    pub pdu: u64,
    #[serde(with = "units::bytes")]
    pub object: u64,
    /// Bytes of a data set outside Pixel Data and the like.
    #[serde(with = "units::bytes")]
    pub non_pixel: u64,
    pub depth: usize,
    pub elements: u64,
    #[serde(with = "units::duration")]
    pub artim: Duration,
    #[serde(with = "units::duration")]
    pub dimse_idle: Duration,
    pub http_connections: usize,
    #[serde(with = "units::duration")]
    pub http_headers: Duration,
    /// A request body or a response that makes no progress for so long ends the connection.
    #[serde(with = "units::duration")]
    pub http_stall: Duration,
    /// Whole STOW request.
    #[serde(with = "units::bytes")]
    pub http_body: u64,
    /// Answers to one C-FIND (then A700) and rows of one QIDO page (then Warning 299).
    pub query_results: usize,
    /// Grace of a drain before what still runs is cut off.
    #[serde(with = "units::duration")]
    pub drain: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    Commitment,
    Query,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationKind {
    Dimse,
    Stow,
}

impl DestinationKind {
    /// What proves an arrival there where nobody says how.
    pub fn usual_verify(self) -> Verify {
        match self {
            DestinationKind::Dimse => Verify::Commitment,
            DestinationKind::Stow => Verify::Query,
        }
    }
}

/// `[[destinations]]`, the same from the file, the CLI and the API.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationConfig {
    pub name: String,
    pub kind: DestinationKind,
    pub ae_title: Option<AeTitle>,
    pub calling_ae_title: Option<AeTitle>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub url: Option<String>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    pub token_file: Option<PathBuf>,
    #[serde(default = "defaults::verify")]
    pub verify: Verify,
    /// For `verify = "query"` and a DIMSE destination whose query port differs, or that is asked
    /// by QIDO: base URL of its DICOMweb service.
    pub query_url: Option<String>,
    #[serde(default = "defaults::yes")]
    pub required: bool,
    #[serde(default = "defaults::associations")]
    pub associations: usize,
    #[serde(default = "defaults::batch")]
    pub batch: usize,
    #[serde(default = "defaults::timeout", with = "units::duration")]
    pub timeout: Duration,
    /// How long a commitment report may take before the object counts as unverified and is asked
    /// for, or sent, again.
    #[serde(default = "defaults::verify_deadline", with = "units::duration")]
    pub verify_deadline: Duration,
}

impl DestinationConfig {
    /// Files with secrets are looked for in the data folder.
    pub fn find_secrets(&mut self, data_dir: &Path) {
        for file in [&mut self.password_file, &mut self.token_file].into_iter().flatten() {
            *file = data_dir.join(&*file);
        }
    }
}

/// `[[rules]]`: conditions of one rule are joined by AND, values of one condition by OR; `*` and
/// `?` are wildcards.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    pub name: String,
    #[serde(default)]
    pub when: Conditions,
    pub to: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conditions {
    pub door: Vec<String>,
    pub calling_ae_title: Vec<String>,
    pub called_ae_title: Vec<String>,
    pub peer: Vec<String>,
    pub account: Vec<String>,
    pub modality: Vec<String>,
    pub sop_class_uid: Vec<String>,
    pub transfer_syntax_uid: Vec<String>,
    pub station_name: Vec<String>,
    pub institution_name: Vec<String>,
    pub body_part_examined: Vec<String>,
    pub study_description: Vec<String>,
    pub series_description: Vec<String>,
    pub referring_physician_name: Vec<String>,
}

mod defaults {
    use super::{Duration, Verify};
    pub fn verify() -> Verify {
        Verify::Commitment
    }
    pub fn yes() -> bool {
        true
    }
    pub fn associations() -> usize {
        2
    }
    pub fn batch() -> usize {
        200
    }
    pub fn timeout() -> Duration {
        Duration::from_secs(30)
    }
    pub fn verify_deadline() -> Duration {
        Duration::from_secs(3600)
    }
}

/// Whether `address` is one that only this machine reaches.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
