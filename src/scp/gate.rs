//! How many may come in: connections that have not yet associated, associations in all and per
//! peer, and the rate of connections from one address. Every place taken is given back when its
//! guard is dropped, whatever ended the task that held it.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::{LimitsConfig, is_loopback};
use crate::dicom::AeTitle;

/// Whom an association counts against: a listed peer by its title; anybody else by the address,
/// because a title costs nothing to invent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Holder {
    Peer(AeTitle),
    Address(IpAddr),
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// All associations that the node serves are taken.
    Node,
    /// This peer has all that one peer may have.
    Peer,
}

/// Cheap to clone; all listeners of a node share one.
#[derive(Clone)]
pub struct Gate {
    limits: Arc<LimitsConfig>,
    associations: Counter<Holder>,
    handshakes: Counter<IpAddr>,
    rate: Arc<Mutex<Rate>>,
}

impl Gate {
    pub fn new(limits: Arc<LimitsConfig>) -> Self {
        let rate = Arc::new(Mutex::new(Rate { window: Instant::now(), seen: HashMap::new() }));
        Self { limits, associations: Counter::default(), handshakes: Counter::default(), rate }
    }

    /// Counts a connection; `false` when its address opens them faster than is allowed.
    pub fn within_rate(&self, address: IpAddr) -> bool {
        self.rate.lock().count(address, Instant::now()) <= self.limits.connections_per_second
    }

    /// A place for a connection until it is associated or gone. `None`: there are so many that
    /// even a polite refusal would cost too much.
    pub fn handshake(&self, address: IpAddr) -> Option<Place<IpAddr>> {
        let each = 2 * self.per_peer(address);
        self.handshakes.take(address, each, 2 * self.limits.associations).ok()
    }

    /// A place for an association.
    pub fn associate(&self, holder: Holder, address: IpAddr) -> Result<Place<Holder>, Full> {
        self.associations.take(holder, self.per_peer(address), self.limits.associations)
    }

    fn per_peer(&self, address: IpAddr) -> usize {
        if is_loopback(address) {
            self.limits.associations_per_peer_loopback
        } else {
            self.limits.associations_per_peer
        }
    }
}

/// Connections per address in the running second. Its memory is what one second brings.
struct Rate {
    window: Instant,
    seen: HashMap<IpAddr, u32>,
}

impl Rate {
    fn count(&mut self, address: IpAddr, now: Instant) -> u32 {
        if now.duration_since(self.window) >= Duration::from_secs(1) {
            self.window = now;
            self.seen = HashMap::new();
        }
        let count = self.seen.entry(address).or_insert(0);
        *count = count.saturating_add(1);
        *count
    }
}

struct Counter<K> {
    taken: Arc<Mutex<Taken<K>>>,
}

struct Taken<K> {
    all: usize,
    each: HashMap<K, usize>,
}

impl<K> Clone for Counter<K> {
    fn clone(&self) -> Self {
        Self { taken: self.taken.clone() }
    }
}

impl<K> Default for Counter<K> {
    fn default() -> Self {
        Self { taken: Arc::new(Mutex::new(Taken { all: 0, each: HashMap::new() })) }
    }
}

impl<K: Hash + Eq + Clone> Counter<K> {
    fn take(&self, key: K, most_each: usize, most: usize) -> Result<Place<K>, Full> {
        let mut taken = self.taken.lock();
        if taken.all >= most {
            return Err(Full::Node);
        }
        let held = taken.each.get(&key).copied().unwrap_or(0);
        if held >= most_each {
            return Err(Full::Peer);
        }
        taken.each.insert(key.clone(), held + 1);
        taken.all += 1;
        Ok(Place { counter: self.clone(), key })
    }
}

/// A place taken; dropping it gives it back.
pub struct Place<K: Hash + Eq> {
    counter: Counter<K>,
    key: K,
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.counter.taken.lock();
        taken.all = taken.all.saturating_sub(1);
        let left = taken.each.get(&self.key).map_or(0, |held| held.saturating_sub(1));
        if left == 0 {
            taken.each.remove(&self.key);
        } else if let Some(held) = taken.each.get_mut(&self.key) {
            *held = left;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn a_place_is_given_back_when_its_guard_is_dropped() {
        let counter = Counter::default();
        let first = counter.take(key(1), 1, 2).ok().unwrap();
        assert_eq!(counter.take(key(1), 1, 2).err(), Some(Full::Peer));
        let _second = counter.take(key(2), 1, 2).ok().unwrap();
        assert_eq!(counter.take(key(3), 1, 2).err(), Some(Full::Node));
        drop(first);
        assert!(counter.take(key(3), 1, 2).is_ok());
        assert_eq!(counter.taken.lock().each.len(), 1, "who left is not remembered");
    }

    #[test]
    fn a_rate_is_counted_per_address_and_second() {
        let start = Instant::now();
        let mut rate = Rate { window: start, seen: HashMap::new() };
        assert_eq!(rate.count(key(1), start), 1);
        assert_eq!(rate.count(key(1), start), 2);
        assert_eq!(rate.count(key(2), start), 1);
        assert_eq!(rate.count(key(1), start + Duration::from_secs(1)), 1);
        assert_eq!(rate.seen.len(), 1, "the last second is forgotten");
    }
}
