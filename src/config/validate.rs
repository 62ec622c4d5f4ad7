//! Refuses what can't work or is not meant, before anything starts. Each refusal is one sentence
//! that begins with the key.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use super::{Admission, Config, ConfigError, DestinationConfig, DestinationKind, PeerConfig, RuleConfig};
use super::{Verify, is_loopback, secret};

/// A PDU must hold a message of some use (PS3.8 sets no minimum), and its length is memory per
/// association.
const PDU_LENGTHS: std::ops::RangeInclusive<u64> = (4 << 10)..=(1 << 20);
const SHORTEST_TOKEN: usize = 16;
/// Each is a task with a buffer, and few archives take more from one sender.
pub const MOST_ASSOCIATIONS_PER_DESTINATION: usize = 32;

type Checked = Result<(), ConfigError>;

pub(super) fn all(config: &Config) -> Checked {
    listeners(config)?;
    telemetry(config)?;
    database(config)?;
    spool(config)?;
    limits(config)?;
    peers(&config.dicom.peers)?;
    destinations(&config.destinations)?;
    rules(&config.rules)
}

fn refuse(key: &str, why: impl std::fmt::Display) -> Checked {
    Err(ConfigError(format!("{key}: {why}")))
}

fn listeners(config: &Config) -> Checked {
    let dicom = &config.dicom;
    if dicom.ae_title.is_empty() {
        return refuse("dicom.ae_title", "at least one AE title is needed");
    }
    if dicom.listen.is_empty() && config.http.listen.is_empty() {
        return refuse("dicom.listen", "is empty, and so is http.listen: nothing could be received");
    }
    for address in
        config.http.listen.iter().chain(&config.telemetry.listen).filter(|address| address.port() != 0)
    {
        if dicom.listen.contains(address) {
            return refuse("dicom.listen", format!("{address} is also another door's"));
        }
    }
    if let Some(address) =
        config.telemetry.listen.filter(|address| address.port() != 0 && config.http.listen.contains(address))
    {
        return refuse("telemetry.listen", format!("{address} is http.listen's, too"));
    }
    let open = dicom.listen.iter().find(|address| !is_loopback(address.ip()));
    if let (Some(Admission::Any), Some(address), false) = (dicom.admission, open, dicom.open_listener) {
        return refuse(
            "dicom.admission",
            format!("\"any\" on {address}, which others reach, needs dicom.open_listener = true"),
        );
    }
    for uid in &dicom.private_transfer_syntaxes {
        well_formed_uid("dicom.private_transfer_syntaxes", uid)?;
    }
    for uid in &dicom.transfer_syntax_preference {
        well_formed_uid("dicom.transfer_syntax_preference", uid)?;
    }
    if !config.http.public_url.is_empty() {
        http_url("http.public_url", &config.http.public_url)?;
    }
    Ok(())
}

fn well_formed_uid(key: &str, uid: &str) -> Checked {
    let component = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if uid.len() <= 64 && uid.split('.').all(component) {
        return Ok(());
    }
    refuse(key, format!("{uid:?} is not a UID"))
}

fn http_url(key: &str, text: &str) -> Checked {
    let Ok(url) = reqwest::Url::parse(text) else {
        return refuse(key, format!("{text:?} is not a URL"));
    };
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return refuse(key, "must begin with http:// or https:// and name a host");
    }
    if url.password().is_some() || !url.username().is_empty() {
        return refuse(key, "must hold no user or password; they have keys of their own");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refuse(key, "must have no query and no fragment");
    }
    Ok(())
}

fn telemetry(config: &Config) -> Checked {
    let telemetry = &config.telemetry;
    if let (Some(address), None) = (telemetry.listen, &telemetry.token_file)
        && !is_loopback(address.ip())
    {
        return refuse("telemetry.token_file", format!("is needed when telemetry.listen is {address}"));
    }
    if tracing_subscriber::EnvFilter::try_new(&telemetry.log_filter).is_err() {
        return refuse("telemetry.log_filter", "is not a filter such as \"info,relaypacs::scp=debug\"");
    }
    let Some(file) = &telemetry.token_file else { return Ok(()) };
    let token = readable_secret("telemetry.token_file", file)?;
    if token.len() < SHORTEST_TOKEN {
        return refuse("telemetry.token_file", format!("a token has at least {SHORTEST_TOKEN} characters"));
    }
    Ok(())
}

fn readable_secret(key: &str, file: &Path) -> Result<String, ConfigError> {
    secret::read(file).map_err(|why| ConfigError(format!("{key}: {why}")))
}

fn database(config: &Config) -> Checked {
    let database = &config.database;
    if database.max_connections == 0 {
        return refuse("database.max_connections", "must be at least 1");
    }
    if let Some(path) = database.url.strip_prefix("sqlite://") {
        if path.is_empty() || path.starts_with('?') || path == ":memory:" {
            return refuse("database.url", "must name a file after sqlite://");
        }
        if database.password_file.is_some() {
            return refuse("database.password_file", "SQLite takes no password");
        }
        return Ok(());
    }
    let is_postgres = ["postgres://", "postgresql://"].iter().any(|scheme| database.url.starts_with(scheme));
    let Some(url) = reqwest::Url::parse(&database.url).ok().filter(|_| is_postgres) else {
        return refuse("database.url", "must be sqlite://PATH or postgres://USER@HOST/DATABASE");
    };
    if url.password().is_some() || url.query_pairs().any(|(name, _)| name == "password") {
        return refuse("database.url", "must hold no password; name its file in database.password_file");
    }
    if let Some(file) = &database.password_file {
        readable_secret("database.password_file", file)?;
    }
    Ok(())
}

fn spool(config: &Config) -> Checked {
    let spool = &config.spool;
    let share = |value: f64| value > 0.0 && value < 1.0;
    if !share(spool.high_watermark) {
        return refuse("spool.high_watermark", "must lie between 0 and 1");
    }
    if !share(spool.critical_watermark) || spool.critical_watermark <= spool.high_watermark {
        return refuse("spool.critical_watermark", "must lie between spool.high_watermark and 1");
    }
    if spool.segment_size < 1 << 20 {
        return refuse("spool.segment_size", "must be at least 1 MiB");
    }
    // Places in it have 32 bits, the one behind its last record included.
    if spool.segment_size > 2 << 30 {
        return refuse("spool.segment_size", "must be at most 2 GiB");
    }
    if spool.inline_limit > spool.segment_size / 4 {
        return refuse("spool.inline_limit", "must be at most a quarter of spool.segment_size");
    }
    Ok(())
}

fn limits(config: &Config) -> Checked {
    let limits = &config.limits;
    let positive = [
        ("associations", limits.associations as u64),
        ("associations_per_peer", limits.associations_per_peer as u64),
        ("associations_per_peer_loopback", limits.associations_per_peer_loopback as u64),
        ("connections_per_second", u64::from(limits.connections_per_second)),
        ("object", limits.object),
        ("non_pixel", limits.non_pixel),
        ("depth", limits.depth as u64),
        ("elements", limits.elements),
        ("artim", limits.artim.as_millis() as u64),
        ("dimse_idle", limits.dimse_idle.as_millis() as u64),
        ("http_connections", limits.http_connections as u64),
        ("http_headers", limits.http_headers.as_millis() as u64),
        ("http_stall", limits.http_stall.as_millis() as u64),
        ("http_body", limits.http_body),
        ("query_results", limits.query_results as u64),
        ("drain", limits.drain.as_millis() as u64),
    ];
    for (name, value) in positive {
        if value == 0 {
            return refuse(&format!("limits.{name}"), "must be more than 0");
        }
    }
    if !PDU_LENGTHS.contains(&limits.pdu) {
        return refuse("limits.pdu", "must lie between 4 KiB and 1 MiB");
    }
    Ok(())
}

fn peers(peers: &[PeerConfig]) -> Checked {
    let mut seen = HashSet::new();
    for each in peers {
        peer(each)?;
        if !seen.insert(&each.ae_title) {
            return refuse("dicom.peers", format!("{:?} stands there twice", each.ae_title));
        }
    }
    Ok(())
}

/// One peer, from the file or the command line.
pub fn peer(peer: &PeerConfig) -> Checked {
    let key = format!("dicom.peers.{}", peer.ae_title);
    if let Some(wrong) = peer.allow.iter().find(|text| !is_network(text)) {
        return refuse(&format!("{key}.allow"), format!("{wrong:?} is not an address or network"));
    }
    if peer.host.is_some() != peer.port.is_some() {
        return refuse(&key, "host and port belong together");
    }
    if peer.port == Some(0) {
        return refuse(&format!("{key}.port"), "must lie between 1 and 65535");
    }
    Ok(())
}

/// `10.1.4.7`, `10.1.4.0/24`, `fd00::/8`.
fn is_network(text: &str) -> bool {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    length.is_none_or(|length| length.parse::<u8>().is_ok_and(|length| length <= longest))
}

fn destinations(destinations: &[DestinationConfig]) -> Checked {
    let mut seen = HashSet::new();
    for each in destinations {
        destination(each)?;
        if !seen.insert(&each.name) {
            return refuse("destinations", format!("{:?} stands there twice", each.name));
        }
    }
    Ok(())
}

/// One destination, from the file or the command line.
pub fn destination(destination: &DestinationConfig) -> Checked {
    if !is_name(&destination.name) {
        return refuse("destinations.name", format!("{:?} is not a name: {NAME_RULE}", destination.name));
    }
    let key = format!("destinations.{}", destination.name);
    match destination.kind {
        DestinationKind::Dimse => dimse_destination(&key, destination)?,
        DestinationKind::Stow => stow_destination(&key, destination)?,
    }
    if let Some(url) = &destination.query_url {
        http_url(&format!("{key}.query_url"), url)?;
    }
    if !(1..=MOST_ASSOCIATIONS_PER_DESTINATION).contains(&destination.associations) {
        let most = MOST_ASSOCIATIONS_PER_DESTINATION;
        return refuse(&format!("{key}.associations"), format!("must lie between 1 and {most}"));
    }
    if destination.batch == 0 {
        return refuse(&format!("{key}.batch"), "must be more than 0");
    }
    if destination.timeout.is_zero() || destination.verify_deadline.is_zero() {
        return refuse(&format!("{key}.timeout"), "it and verify_deadline must be more than 0");
    }
    credentials(&key, destination)
}

const NAME_RULE: &str = "1 to 64 letters, digits, '-', '_' and '.', beginning with a letter or digit";

fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=64).contains(&text.len()) && text.as_bytes()[0].is_ascii_alphanumeric() && text.bytes().all(plain)
}

fn dimse_destination(key: &str, destination: &DestinationConfig) -> Checked {
    let missing = [
        ("ae_title", destination.ae_title.is_none()),
        ("host", destination.host.as_deref().is_none_or(str::is_empty)),
        ("port", destination.port.is_none_or(|port| port == 0)),
    ];
    if let Some((name, _)) = missing.iter().find(|(_, missing)| *missing) {
        return refuse(&format!("{key}.{name}"), "is needed with kind = \"dimse\"");
    }
    if destination.url.is_some() {
        return refuse(&format!("{key}.url"), "belongs to kind = \"stow\"");
    }
    Ok(())
}

fn stow_destination(key: &str, destination: &DestinationConfig) -> Checked {
    let Some(url) = &destination.url else {
        return refuse(&format!("{key}.url"), "is needed with kind = \"stow\"");
    };
    http_url(&format!("{key}.url"), url)?;
    if destination.host.is_some() || destination.port.is_some() {
        return refuse(&format!("{key}.host"), "host and port belong to kind = \"dimse\"; use url");
    }
    if destination.verify == Verify::Commitment {
        return refuse(&format!("{key}.verify"), "must be \"query\" or \"none\" with kind = \"stow\"");
    }
    Ok(())
}

fn credentials(key: &str, destination: &DestinationConfig) -> Checked {
    let asks_by_http = destination.kind == DestinationKind::Stow || destination.query_url.is_some();
    let files = [("password_file", &destination.password_file), ("token_file", &destination.token_file)];
    for (name, file) in files {
        let Some(file) = file else { continue };
        if !asks_by_http {
            return refuse(&format!("{key}.{name}"), "is of no use without url or query_url");
        }
        readable_secret(&format!("{key}.{name}"), file)?;
    }
    if destination.token_file.is_some() && destination.password_file.is_some() {
        return refuse(&format!("{key}.token_file"), "excludes password_file");
    }
    if destination.username.is_some() != destination.password_file.is_some() {
        return refuse(&format!("{key}.username"), "username and password_file belong together");
    }
    Ok(())
}

fn rules(rules: &[RuleConfig]) -> Checked {
    let mut seen = HashSet::new();
    for rule in rules {
        if !is_name(&rule.name) {
            return refuse("rules.name", format!("{:?} is not a name: {NAME_RULE}", rule.name));
        }
        if !seen.insert(&rule.name) {
            return refuse("rules", format!("{:?} stands there twice", rule.name));
        }
        if rule.to.is_empty() {
            return refuse(&format!("rules.{}.to", rule.name), "must name a destination");
        }
        if let Some(door) = rule.when.door.iter().find(|door| !["dimse", "stow"].contains(&door.as_str())) {
            return refuse(&format!("rules.{}.when.door", rule.name), format!("{door:?} is not a door"));
        }
    }
    Ok(())
}
