//! A destination that is this node itself: what it delivered there it would find there, take for proven, and free. So it
//! delivers to none of its own doors, whatever name they go by.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

/// Where this node listens, and what tells it from others.
#[derive(Debug, Clone)]
pub struct OwnDoors {
    pub listeners: Arc<[SocketAddr]>,
    /// Sent with each request to a destination ([`INSTANCE`]); another after each start.
    pub instance: Arc<str>,
}

/// Header of requests to destinations. A node refuses what bears its own.
pub const INSTANCE: &str = "relaypacs-instance";

impl OwnDoors {
    pub fn new(listeners: impl IntoIterator<Item = SocketAddr>) -> OwnDoors {
        let instance = ulid::Ulid::new().to_string().into();
        OwnDoors { listeners: listeners.into_iter().collect(), instance }
    }

    /// Whether a connection to it ends here. Names other than `localhost` are not looked up: where they lead is seen
    /// when they are connected.
    pub fn are_at(&self, host: &str, port: u16) -> bool {
        let address = match host.trim_matches(['[', ']']) {
            "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
            host => host.parse().ok(),
        };
        let reaches = |listener: &SocketAddr, ip: IpAddr| {
            listener.ip() == ip || (listener.ip().is_unspecified() && is_of_this_machine(ip))
        };
        let same_port = |listener: &&SocketAddr| listener.port() == port;
        address
            .is_some_and(|ip| self.listeners.iter().filter(same_port).any(|listener| reaches(listener, ip)))
    }
}

/// A socket can be bound to addresses of this machine only.
fn is_of_this_machine(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_doors_are_known_by_all_addresses_of_the_machine() {
        let own = OwnDoors::new(["0.0.0.0:11112".parse().unwrap(), "127.0.0.1:8080".parse().unwrap()]);
        for (host, port) in
            [("127.0.0.1", 11112), ("localhost", 11112), ("127.0.0.7", 11112), ("localhost", 8080)]
        {
            assert!(own.are_at(host, port), "{host}:{port}");
        }
        for (host, port) in
            [("127.0.0.1", 104), ("127.0.0.7", 8080), ("192.0.2.1", 11112), ("archive", 11112)]
        {
            assert!(!own.are_at(host, port), "{host}:{port}");
        }
    }
}
