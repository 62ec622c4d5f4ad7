//! A DICOM peer as the commands for commissioning name it: `AE@HOST:PORT`. For `echo`, `send` and
//! `find`.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::config::Config;
use crate::dicom::AeTitle;
use crate::dimse::scu::Peer;

/// Whom to call, and as whom.
#[derive(Debug, Clone, Args)]
pub struct RemoteArgs {
    /// Called AE title and address, such as ARCHIVE@10.1.4.7:104
    #[arg(value_name = "AE@HOST:PORT")]
    remote: Remote,
    /// Calling AE title; this node's, if left out
    #[arg(long, value_name = "AE")]
    calling: Option<AeTitle>,
    /// Longest wait for connection, association and each answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

impl RemoteArgs {
    pub fn peer(&self, config: &Config) -> anyhow::Result<Peer> {
        let own = || config.dicom.ae_title.first().cloned();
        let calling = self.calling.clone().or_else(own);
        let calling_ae_title =
            calling.ok_or_else(|| anyhow::anyhow!("no calling AE title: use --calling"))?;
        Ok(Peer {
            host: self.remote.host.clone(),
            port: self.remote.port,
            called_ae_title: self.remote.ae_title.clone(),
            calling_ae_title,
            timeout: Duration::from_secs(self.timeout),
            // A person may ask a node whether it answers.
            never: [].into(),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Remote {
    ae_title: AeTitle,
    host: String,
    port: u16,
}

impl FromStr for Remote {
    type Err = String;

    /// The host may be an IPv6 address in brackets. AE titles may hold `@`, so the last one counts.
    fn from_str(text: &str) -> Result<Self, String> {
        let (ae_title, address) = text.rsplit_once('@').ok_or("write AE@HOST:PORT")?;
        let (host, port) = address.rsplit_once(':').ok_or("the port is missing: write AE@HOST:PORT")?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() || (bare == host && host.contains(':')) {
            return Err("the host is missing, or an IPv6 address without brackets".to_owned());
        }
        Ok(Self {
            ae_title: AeTitle::parse(ae_title).map_err(|error| error.to_string())?,
            host: bare.to_owned(),
            port: port.parse().map_err(|_| format!("{port:?} is not a port"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_read_as_written() {
        let remote = |text: &str| {
            let Remote { ae_title, host, port } = text.parse().unwrap();
            (ae_title.to_string(), host, port)
        };
        assert_eq!(remote("ARCHIVE@10.1.4.7:104"), ("ARCHIVE".into(), "10.1.4.7".into(), 104));
        assert_eq!(remote("A@B@pacs.example:11112"), ("A@B".into(), "pacs.example".into(), 11112));
        assert_eq!(remote("X@[::1]:104"), ("X".into(), "::1".into(), 104));
    }

    #[test]
    fn what_is_no_peer_is_refused() {
        for text in ["", "ARCHIVE", "host:104", "A@host", "A@:104", "@host:104", "A@::1:104", "A@host:99999"]
        {
            assert!(text.parse::<Remote>().is_err(), "{text:?}");
        }
    }
}
