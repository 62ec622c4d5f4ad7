//! What is durable but not yet in the projection: it bridges the moment between an answer and
//! sled, for whoever looks an entry up. Bounded by the channel to the projector.

use std::collections::{HashMap, HashSet};

use parking_lot::RwLock;

use super::entry::{Digest, EntryId, Fact};
use super::projection::Published;
use super::state::Place;
use crate::dicom::Uid;

#[derive(Default)]
pub struct Recent(RwLock<Inner>);

#[derive(Default)]
struct Inner {
    entries: HashMap<EntryId, Known>,
    by_uid: HashMap<Uid, Vec<EntryId>>,
    purged: HashSet<EntryId>,
}

#[derive(Clone)]
struct Known {
    place: Place,
    large: Option<String>,
    sop_instance_uid: Uid,
    digest: Digest,
    transfer_syntax_uid: String,
}

/// What is known of an entry whose facts may still be on their way.
pub enum Recently {
    At(Place, Option<String>),
    Purged,
    /// Nothing new: the projection knows.
    Nothing,
}

impl Recent {
    pub fn publish(&self, published: &Published) {
        let mut inner = self.0.write();
        match &*published.fact {
            Fact::Received(entry) => {
                let known = Known {
                    place: published.place,
                    large: published.large.clone(),
                    sop_instance_uid: entry.key.sop_instance_uid.clone(),
                    digest: entry.data_set_sha256,
                    transfer_syntax_uid: entry.transfer_syntax_uid.clone(),
                };
                let ids = inner.by_uid.entry(known.sop_instance_uid.clone()).or_default();
                if !ids.contains(&entry.id) {
                    ids.push(entry.id);
                }
                inner.entries.insert(entry.id, known);
            }
            Fact::Purged { entry, .. } => {
                inner.purged.insert(*entry);
            }
            _ => {}
        }
    }

    /// The projection has it now.
    pub fn applied(&self, records: &[Published]) {
        let mut inner = self.0.write();
        for published in records {
            match &*published.fact {
                Fact::Received(entry) => inner.forget(entry.id, published.place),
                Fact::Purged { entry, .. } => {
                    inner.purged.remove(entry);
                }
                _ => {}
            }
        }
    }

    pub fn lookup(&self, id: EntryId) -> Recently {
        let inner = self.0.read();
        if inner.purged.contains(&id) {
            return Recently::Purged;
        }
        match inner.entries.get(&id) {
            Some(known) => Recently::At(known.place, known.large.clone()),
            None => Recently::Nothing,
        }
    }

    pub fn is_purged(&self, id: EntryId) -> bool {
        self.0.read().purged.contains(&id)
    }

    /// Entries with this SOP Instance UID: id, digest, transfer syntax UID.
    pub fn with_uid(&self, uid: &Uid) -> Vec<(EntryId, Digest, String)> {
        let inner = self.0.read();
        let ids = inner.by_uid.get(uid).map_or(&[][..], Vec::as_slice);
        ids.iter()
            .filter(|id| !inner.purged.contains(id))
            .filter_map(|id| inner.entries.get(id).map(|known| (*id, known)))
            .map(|(id, known)| (id, known.digest, known.transfer_syntax_uid.clone()))
            .collect()
    }
}

impl Inner {
    fn forget(&mut self, id: EntryId, place: Place) {
        if self.entries.get(&id).is_none_or(|known| known.place != place) {
            return;
        }
        let Some(known) = self.entries.remove(&id) else { return };
        let Some(ids) = self.by_uid.get_mut(&known.sop_instance_uid) else { return };
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            self.by_uid.remove(&known.sop_instance_uid);
        }
    }
}
