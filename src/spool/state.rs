//! What became of one entry so far: the value that the projection keeps for it, and how facts
//! change it. Pure.

use serde::{Deserialize, Serialize};

use super::entry::{Delivery, DeliveryState, Digest, EntryId, Finding, Outcome, SpoolEntry};
use crate::clock::Millis;
use crate::dicom::Uid;

/// Where the newest record of an entry lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub generation: u32,
    pub offset: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EntryState {
    pub id: EntryId,
    pub place: Place,
    pub sop_instance_uid: Uid,
    pub data_set_sha256: Digest,
    pub transfer_syntax_uid: String,
    /// Bytes held for it, prefix included.
    pub size: u64,
    pub received_at: Millis,
    /// Name of its large file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub conflict: bool,
    /// What the comparison of a conflict has shown; `None` while it is to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<Finding>,
    /// The router has decided.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub routed: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deliveries: Vec<Delivery>,
}

impl EntryState {
    pub fn received(entry: &SpoolEntry, place: Place, large: Option<String>) -> EntryState {
        EntryState {
            id: entry.id,
            place,
            sop_instance_uid: entry.key.sop_instance_uid.clone(),
            data_set_sha256: entry.data_set_sha256,
            transfer_syntax_uid: entry.transfer_syntax_uid.clone(),
            size: u64::from(entry.prefix_length) + entry.data_set_length,
            received_at: entry.received_at,
            large,
            conflict: entry.conflict_with.is_some(),
            finding: None,
            routed: false,
            deliveries: Vec::new(),
        }
    }

    /// Adds deliveries that do not exist yet; deciding again changes nothing.
    pub fn route(&mut self, destinations: &[String], at: Millis) {
        self.routed = true;
        for destination in destinations {
            if self.deliveries.iter().any(|delivery| delivery.destination == *destination) {
                continue;
            }
            self.deliveries.push(Delivery {
                entry: self.id,
                destination: destination.clone(),
                state: DeliveryState::Queued,
                attempts: 0,
                due: at,
                since: at,
                reason: None,
                unlisted: false,
                doubted: false,
            });
        }
    }

    /// The destination did not list it before the first attempt.
    pub fn unlisted(&mut self, destination: &str) {
        let ours = self.deliveries.iter_mut().filter(|delivery| delivery.destination == destination);
        ours.for_each(|delivery| delivery.unlisted = true);
    }

    /// What happened to one delivery. A destination that was never routed to is ignored.
    pub fn outcome(&mut self, destination: &str, outcome: &Outcome, at: Millis) {
        let Some(delivery) = self.deliveries.iter_mut().find(|delivery| delivery.destination == destination)
        else {
            return;
        };
        // A late acknowledgement does not undo a proof.
        let is_sent = matches!(outcome, Outcome::Sent | Outcome::SentUnproven { .. });
        if delivery.state == DeliveryState::Verified && is_sent {
            return;
        }
        // Only what is proven is to be proven anew: anything else is on its way to it.
        if *outcome == Outcome::Resent && delivery.state != DeliveryState::Verified {
            return;
        }
        // What a person gave up, an attempt that was under way does not take up again.
        let has_failed = matches!(outcome, Outcome::Deferred { .. } | Outcome::Poisoned { .. });
        if delivery.state == DeliveryState::Cancelled && has_failed {
            return;
        }
        delivery.since = at;
        delivery.reason = None;
        match outcome {
            Outcome::Sent | Outcome::Resent => delivery.state = DeliveryState::Sent,
            Outcome::SentUnproven { reason } => {
                delivery.state = DeliveryState::Sent;
                delivery.doubted = true;
                delivery.reason = Some(reason.clone());
            }
            Outcome::Verified { .. } => delivery.state = DeliveryState::Verified,
            Outcome::Deferred { due, attempts, reason } => {
                delivery.state = DeliveryState::Deferred;
                delivery.due = *due;
                delivery.attempts = *attempts;
                delivery.reason = Some(reason.clone());
            }
            Outcome::Poisoned { reason } => {
                delivery.state = DeliveryState::Poisoned;
                delivery.reason = Some(reason.clone());
            }
            Outcome::Requeued => {
                delivery.state = DeliveryState::Queued;
                delivery.doubted = false;
                delivery.attempts = 0;
                delivery.due = at;
            }
            Outcome::Cancelled => delivery.state = DeliveryState::Cancelled,
        }
    }

    pub fn awaits_comparison(&self) -> bool {
        self.conflict && self.finding.is_none()
    }

    /// When the last delivery came to rest; `None` while one is open, or none was ever made: an
    /// object routed nowhere stays until a person frees it.
    pub fn resting_since(&self) -> Option<Millis> {
        let resting = |delivery: &Delivery| {
            matches!(delivery.state, DeliveryState::Sent | DeliveryState::Verified | DeliveryState::Cancelled)
        };
        if self.conflict || !self.deliveries.iter().all(resting) {
            return None;
        }
        self.deliveries.iter().map(|delivery| delivery.since).max()
    }
}

/// What the configuration says about a destination, as far as freeing space depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryPolicy {
    pub required: bool,
    /// `verify = "none"`: its success answer is all the proof there will be.
    pub success_is_proof: bool,
}

impl EntryState {
    /// Whether every delivery is settled and at least one required one is proven.
    pub fn is_purgeable(&self, policy: impl Fn(&str) -> Option<DeliveryPolicy>) -> bool {
        if self.resting_since().is_none() {
            return false;
        }
        let mut proven = false;
        for delivery in &self.deliveries {
            let known = policy(&delivery.destination);
            let verified = match delivery.state {
                DeliveryState::Verified => true,
                // An answer in doubt proves nothing, whatever the destination promises.
                DeliveryState::Sent => {
                    delivery.reason.is_none() && known.is_some_and(|known| known.success_is_proof)
                }
                _ => false,
            };
            if delivery.state == DeliveryState::Sent && !verified {
                return false;
            }
            proven |= verified && known.is_some_and(|known| known.required);
        }
        proven
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> EntryState {
        EntryState {
            id: EntryId(1),
            place: Place { generation: 1, offset: 4096 },
            sop_instance_uid: Uid::parse("1.2.3").unwrap(),
            data_set_sha256: Digest([0; 32]),
            transfer_syntax_uid: "1.2.840.10008.1.2.1".into(),
            size: 10,
            received_at: Millis(1),
            large: None,
            conflict: false,
            finding: None,
            routed: false,
            deliveries: Vec::new(),
        }
    }

    fn required(success_is_proof: bool) -> impl Fn(&str) -> Option<DeliveryPolicy> {
        move |_| Some(DeliveryPolicy { required: true, success_is_proof })
    }

    #[test]
    fn deciding_again_keeps_what_was_delivered() {
        let mut state = state();
        state.route(&["a".into()], Millis(1));
        state.outcome("a", &Outcome::Sent, Millis(2));
        state.route(&["a".into(), "b".into()], Millis(3));
        let states: Vec<_> = state.deliveries.iter().map(|delivery| delivery.state).collect();
        assert_eq!(states, [DeliveryState::Sent, DeliveryState::Queued]);
    }

    #[test]
    fn space_is_freed_only_after_proof() {
        let mut state = state();
        assert!(!state.is_purgeable(required(true)), "routed nowhere");
        state.route(&["a".into()], Millis(1));
        assert!(!state.is_purgeable(required(true)), "queued");
        state.outcome("a", &Outcome::Sent, Millis(2));
        assert!(!state.is_purgeable(required(false)), "sent, not verified");
        assert!(state.is_purgeable(required(true)), "sent, and nothing more to expect");
        state.outcome("a", &Outcome::Verified { by: "query".into() }, Millis(3));
        assert!(state.is_purgeable(required(false)));
        state.route(&["optional".into()], Millis(4));
        assert!(!state.is_purgeable(required(false)), "an open delivery holds it, optional or not");
    }

    #[test]
    fn what_was_proven_is_proven_anew_after_a_resend_and_nothing_else_is() {
        let mut state = state();
        state.route(&["a".into()], Millis(1));
        state.outcome("a", &Outcome::Resent, Millis(2));
        assert_eq!(
            (state.deliveries[0].state, state.deliveries[0].since),
            (DeliveryState::Queued, Millis(1))
        );
        state.outcome("a", &Outcome::SentUnproven { reason: "listed".into() }, Millis(3));
        state.outcome("a", &Outcome::Verified { by: "comparison".into() }, Millis(4));
        assert!(state.is_purgeable(required(false)));
        state.outcome("a", &Outcome::Resent, Millis(5));
        assert!(!state.is_purgeable(required(false)));
        assert!(state.deliveries[0].doubted, "a UID that was no evidence has not become one");
    }

    #[test]
    fn what_the_destination_did_not_list_stays_known_and_a_doubt_ends_with_a_new_attempt() {
        let mut state = state();
        state.route(&["a".into(), "b".into()], Millis(1));
        state.unlisted("a");
        state.outcome("b", &Outcome::SentUnproven { reason: "listed".into() }, Millis(2));
        for destination in ["a", "b"] {
            state.outcome(destination, &Outcome::Requeued, Millis(3));
        }
        let known: Vec<_> = state.deliveries.iter().map(|one| (one.unlisted, one.doubted)).collect();
        assert_eq!(known, [(true, false), (false, false)]);
    }

    #[test]
    fn what_was_given_up_is_not_taken_up_by_an_attempt_that_fails_late_but_by_a_person() {
        let mut state = state();
        state.route(&["a".into()], Millis(1));
        state.outcome("a", &Outcome::Cancelled, Millis(2));
        let reason = "refused".to_owned();
        state.outcome(
            "a",
            &Outcome::Deferred { due: Millis(9), attempts: 1, reason: reason.clone() },
            Millis(3),
        );
        state.outcome("a", &Outcome::Poisoned { reason }, Millis(4));
        assert_eq!(state.deliveries[0].state, DeliveryState::Cancelled);
        assert!(!state.is_purgeable(required(true)), "given up is not proven");
        state.outcome("a", &Outcome::Requeued, Millis(5));
        assert_eq!(state.deliveries[0].state, DeliveryState::Queued);
    }

    #[test]
    fn what_only_a_destination_that_is_gone_has_proven_stays() {
        let mut state = state();
        state.route(&["gone".into()], Millis(1));
        state.outcome("gone", &Outcome::Verified { by: "commitment".into() }, Millis(2));
        let policy = |name: &str| required(false)(name).filter(|_| name != "gone");
        assert!(!state.is_purgeable(policy));
        state.route(&["successor".into()], Millis(3));
        state.outcome("successor", &Outcome::Verified { by: "query".into() }, Millis(4));
        assert!(state.is_purgeable(policy));
    }

    #[test]
    fn a_late_acknowledgement_does_not_undo_a_proof() {
        let mut state = state();
        state.route(&["a".into()], Millis(1));
        state.outcome("a", &Outcome::Verified { by: "commitment".into() }, Millis(2));
        state.outcome("a", &Outcome::Sent, Millis(3));
        assert_eq!(state.deliveries[0].state, DeliveryState::Verified);
    }
}
