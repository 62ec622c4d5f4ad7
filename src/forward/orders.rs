//! What a person orders about the deliveries of a destination: queue what it never got, try again,
//! give up. Each order is a fact like any other outcome, and counts for deliveries as they stand.

use std::sync::Arc;

use super::lane::Lane;
use super::{Forward, ForwardError};
use crate::clock::Millis;
use crate::spool::{Delivery, DeliveryState, Durability, EntryId, Fact, Outcome};

/// Which deliveries of a destination a person decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// Refused for good.
    Poisoned,
    All,
    Entry(EntryId),
}

impl Forward {
    /// Queues what was received since `since` and never went to `name`; returns how many.
    pub async fn backfill(&self, name: &str, since: Millis) -> Result<u64, ForwardError> {
        const PAGE: usize = 500;
        let spool = &self.inner.spool;
        let mut queued = 0;
        let mut after = None;
        loop {
            // For a page each: it may be removed meanwhile.
            let _alone = self.inner.changing.lock().await;
            let lane = self.inner.lane(name)?;
            let page = spool.entries(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            let at = self.inner.clock.now();
            let wanted = page.iter().filter(|state| {
                let went = state.deliveries.iter().any(|delivery| delivery.destination == name);
                state.received_at >= since && !state.conflict && !went
            });
            let destinations = vec![name.to_owned()];
            let decide = |id| Fact::Routed { entry: id, destinations: destinations.clone(), at };
            let decisions: Vec<Fact> = wanted.map(|state| decide(state.id)).collect();
            if decisions.is_empty() {
                continue;
            }
            queued += decisions.len() as u64;
            let position = spool.append(decisions, Durability::Synced).await?;
            spool.applied(position).await?;
            lane.wake();
        }
        Ok(queued)
    }

    /// Tries deliveries again that were refused for good, put off or given up; returns how many.
    pub async fn requeue(&self, name: &str, which: Which) -> Result<u64, ForwardError> {
        let states = [DeliveryState::Poisoned, DeliveryState::Deferred, DeliveryState::Cancelled];
        match which {
            _ if !self.inner.lanes.read().contains_key(name) => {
                Err(ForwardError::UnknownDestination(name.to_owned()))
            }
            Which::Poisoned => self.change(name, &states[..1], &Outcome::Requeued).await,
            Which::All => self.change(name, &states, &Outcome::Requeued).await,
            Which::Entry(entry) => self.change_one(name, entry, &states, &Outcome::Requeued).await,
        }
    }

    /// Gives up deliveries that are not proven; returns how many. The objects stay here. The destination may be gone.
    pub async fn cancel(&self, name: &str, which: Which) -> Result<u64, ForwardError> {
        let states =
            [DeliveryState::Poisoned, DeliveryState::Queued, DeliveryState::Deferred, DeliveryState::Sent];
        match which {
            Which::Poisoned => self.change(name, &states[..1], &Outcome::Cancelled).await,
            Which::All => self.change(name, &states, &Outcome::Cancelled).await,
            Which::Entry(entry) => self.change_one(name, entry, &states, &Outcome::Cancelled).await,
        }
    }

    /// As [`Self::change`], for one entry; refused where its delivery is in none of these states.
    async fn change_one(
        &self,
        name: &str,
        entry: EntryId,
        states: &[DeliveryState],
        outcome: &Outcome,
    ) -> Result<u64, ForwardError> {
        let _alone = self.inner.changing.lock().await;
        let lane = self.lane_or_gone(name)?;
        let deliveries = self.inner.spool.deliveries_of(entry).await?;
        let ours = deliveries.into_iter().find(|delivery| delivery.destination == name);
        match ours {
            None => Err(ForwardError::Refused(format!("entry {entry} does not go to {name:?}"))),
            Some(delivery) if !states.contains(&delivery.state) => {
                let state = format!("{:?}", delivery.state).to_lowercase();
                Err(ForwardError::Refused(format!("the delivery of entry {entry} to {name:?} is {state}")))
            }
            Some(delivery) => {
                self.put(lane, &[delivery], outcome).await?;
                Ok(1)
            }
        }
    }

    /// Gives every delivery that is now in one of these states this outcome; returns how many.
    async fn change(
        &self,
        name: &str,
        states: &[DeliveryState],
        outcome: &Outcome,
    ) -> Result<u64, ForwardError> {
        const PAGE: usize = 500;
        let spool = &self.inner.spool;
        let mut changed = 0;
        for state in states {
            // Not those that come to this state meanwhile.
            let mut left = spool.counts().of(name, *state);
            loop {
                // For a page each: it may be removed meanwhile.
                let _alone = self.inner.changing.lock().await;
                let lane = self.lane_or_gone(name)?;
                let page = spool.deliveries(name, *state, None, PAGE.min(left as usize)).await?;
                if left == 0 || page.is_empty() {
                    break;
                }
                left = left.saturating_sub(page.len() as u64);
                changed += page.len() as u64;
                self.put(lane, &page, outcome).await?;
            }
        }
        Ok(changed)
    }

    /// `None` for a destination that is gone and that deliveries know.
    fn lane_or_gone(&self, name: &str) -> Result<Option<Arc<Lane>>, ForwardError> {
        match self.inner.lane(name) {
            Err(_) if self.inner.spool.counts().deliveries.contains_key(name) => Ok(None),
            lane => lane.map(Some),
        }
    }

    /// Gives these deliveries an outcome that a person decided.
    async fn put(
        &self,
        lane: Option<Arc<Lane>>,
        deliveries: &[Delivery],
        outcome: &Outcome,
    ) -> Result<(), ForwardError> {
        let spool = &self.inner.spool;
        let at = self.inner.clock.now();
        let fact = |delivery: &Delivery| Fact::Delivery {
            entry: delivery.entry,
            destination: delivery.destination.clone(),
            outcome: outcome.clone(),
            at,
        };
        let position = spool.append(deliveries.iter().map(fact).collect(), Durability::Synced).await?;
        spool.applied(position).await?;
        if let Some(lane) = lane {
            deliveries.iter().for_each(|delivery| lane.begin_anew(delivery.entry));
            lane.wake();
        }
        Ok(())
    }
}
