//! The peers that may open associations: AE titles and the networks they may come from. The
//! command line and the API replace the table while the node runs; negotiation asks it once per
//! association, and nothing else depends on it.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use parking_lot::RwLock;
use thiserror::Error;

use crate::config::PeerConfig;
use crate::dicom::AeTitle;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is neither an address nor a network such as 10.1.4.0/24")]
pub struct InvalidNetwork(String);

/// An address block in CIDR notation; a bare address is a block of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let shift = 32 - u32::from(self.prefix);
                (u32::from(ours) ^ u32::from(theirs)).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let shift = 128 - u32::from(self.prefix);
                (u128::from(ours) ^ u128::from(theirs)).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let invalid = || InvalidNetwork(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| invalid())?
            }
            Some(_) => return Err(invalid()),
        };
        if prefix > bits {
            return Err(invalid());
        }
        Ok(Self { address, prefix })
    }
}

/// What the table says about a calling AE title at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Known,
    /// Listed, but not for this address: somebody else's title, or a changed network.
    WrongAddress,
    Unknown,
}

struct Peer {
    ae_title: AeTitle,
    /// Empty: anywhere.
    allow: Vec<Network>,
    bulk: bool,
}

impl Peer {
    fn may_come_from(&self, address: IpAddr) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|network| network.contains(address))
    }
}

/// Cheap to clone; every clone sees a replacement at once.
#[derive(Clone, Default)]
pub struct PeerTable {
    peers: Arc<RwLock<Arc<Vec<Peer>>>>,
}

impl PeerTable {
    pub fn new(peers: &[PeerConfig]) -> Result<Self, InvalidNetwork> {
        let table = Self::default();
        table.replace(peers)?;
        Ok(table)
    }

    /// Puts these peers in the place of all earlier ones. Established associations stay.
    pub fn replace(&self, peers: &[PeerConfig]) -> Result<(), InvalidNetwork> {
        let parsed = peers
            .iter()
            .map(|peer| {
                let allow = peer.allow.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
                Ok(Peer { ae_title: peer.ae_title.clone(), allow, bulk: peer.bulk })
            })
            .collect::<Result<Vec<_>, InvalidNetwork>>()?;
        *self.peers.write() = Arc::new(parsed);
        Ok(())
    }

    /// An AE title may be listed more than once, each time with other networks.
    pub fn standing(&self, ae_title: &AeTitle, address: IpAddr) -> Standing {
        let peers = self.peers.read().clone();
        let mut standing = Standing::Unknown;
        for peer in peers.iter().filter(|peer| peer.ae_title == *ae_title) {
            if peer.may_come_from(address) {
                return Standing::Known;
            }
            standing = Standing::WrongAddress;
        }
        standing
    }

    /// Whether it sends in bulk and can wait.
    pub fn is_bulk(&self, ae_title: &AeTitle, address: IpAddr) -> bool {
        let peers = self.peers.read().clone();
        peers.iter().any(|peer| peer.bulk && peer.ae_title == *ae_title && peer.may_come_from(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(ae_title: &str, allow: &[&str]) -> PeerConfig {
        PeerConfig {
            ae_title: AeTitle::parse(ae_title).unwrap(),
            allow: allow.iter().map(|text| text.to_string()).collect(),
            host: None,
            port: None,
            bulk: false,
        }
    }

    fn within(network: &str, address: &str) -> bool {
        network.parse::<Network>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn a_network_contains_its_addresses_only() {
        assert!(within("10.1.4.0/24", "10.1.4.255"));
        assert!(!within("10.1.4.0/24", "10.1.5.0"));
        assert!(within("10.1.4.7", "10.1.4.7"));
        assert!(!within("10.1.4.7", "10.1.4.8"));
        assert!(within("0.0.0.0/0", "203.0.113.9"));
        assert!(!within("0.0.0.0/0", "2001:db8::1"));
        assert!(within("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!within("2001:db8::/32", "2001:db9::1"));
        assert!(within("::/0", "2001:db9::1"));
        assert!(within("::1/128", "::1"));
    }

    #[test]
    fn an_ipv4_address_mapped_into_ipv6_is_the_ipv4_address() {
        assert!(within("10.1.4.0/24", "::ffff:10.1.4.9"));
    }

    #[test]
    fn what_is_not_a_network_is_refused() {
        for text in
            ["", "10.1.4", "10.1.4.0/33", "::/129", "10.1.4.0/", "10.1.4.0/+8", "ct.example", "1.2.3.4/8/8"]
        {
            assert!(text.parse::<Network>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_listed_title_from_elsewhere_is_told_from_an_unlisted_one() {
        let table = PeerTable::new(&[peer("CT_1", &["10.1.4.0/24"]), peer("MR_1", &[])]).unwrap();
        let title = |text| AeTitle::parse(text).unwrap();
        let here = "10.1.4.9".parse().unwrap();
        let elsewhere = "10.1.5.9".parse().unwrap();
        assert_eq!(table.standing(&title("CT_1"), here), Standing::Known);
        assert_eq!(table.standing(&title("CT_1"), elsewhere), Standing::WrongAddress);
        assert_eq!(table.standing(&title("MR_1"), elsewhere), Standing::Known);
        assert_eq!(table.standing(&title("US_1"), here), Standing::Unknown);
    }

    #[test]
    fn a_replacement_is_seen_by_every_clone_and_a_bad_one_changes_nothing() {
        let table = PeerTable::new(&[peer("CT_1", &[])]).unwrap();
        let clone = table.clone();
        let address = "10.0.0.1".parse().unwrap();
        table.replace(&[peer("MR_1", &[])]).unwrap();
        assert_eq!(clone.standing(&AeTitle::parse("MR_1").unwrap(), address), Standing::Known);
        assert!(table.replace(&[peer("US_1", &["nowhere"])]).is_err());
        assert_eq!(clone.standing(&AeTitle::parse("MR_1").unwrap(), address), Standing::Known);
    }
}
