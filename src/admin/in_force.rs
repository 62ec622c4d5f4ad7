//! What is in force: the destinations and peers of the configuration file, which are read-only here, and those kept in
//! SQL. After a change the parts that use them get the whole, never a difference.

use serde::{Deserialize, Serialize};

use super::{Admin, AdminError};
use crate::config::{Config, DestinationConfig, PeerConfig};
use crate::forward::{ConfiguredDestination, Setup};
use crate::store::{Routing, RoutingError};

/// A peer, and where it is kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeerLine {
    #[serde(flatten)]
    pub peer: PeerConfig,
    pub from_file: bool,
}

/// The file's and SQL's together.
pub struct InForce {
    pub setup: Setup,
    pub peers: Vec<PeerLine>,
}

impl InForce {
    /// A name that is in both is the file's: the file was changed after SQL took it.
    pub async fn of(config: &Config, routing: &Routing) -> Result<InForce, RoutingError> {
        let kept = routing.kept().await?;
        let destinations = destinations(config, kept.destinations, &kept.paused);
        let of_file = config.dicom.peers.iter().cloned();
        let mut peers: Vec<PeerLine> = of_file.map(|peer| PeerLine { peer, from_file: true }).collect();
        for peer in kept.peers {
            if !peers.iter().any(|other| other.peer.ae_title == peer.ae_title) {
                peers.push(PeerLine { peer, from_file: false });
            }
        }
        Ok(InForce { setup: Setup { destinations, rules: config.rules.clone() }, peers })
    }

    pub fn peer_configs(&self) -> Vec<PeerConfig> {
        self.peers.iter().map(|line| line.peer.clone()).collect()
    }
}

fn destinations(
    config: &Config,
    of_sql: Vec<DestinationConfig>,
    paused: &[String],
) -> Vec<ConfiguredDestination> {
    let of_file = config.destinations.iter().cloned().map(|destination| (destination, true));
    let of_sql = of_sql.into_iter().map(|destination| (destination, false));
    let mut destinations: Vec<ConfiguredDestination> = Vec::new();
    for (config, from_file) in of_file.chain(of_sql) {
        if destinations.iter().any(|other| other.config.name == config.name) {
            tracing::warn!(name = %config.name, "a destination added at run time gives way to the file's");
            continue;
        }
        let paused = paused.contains(&config.name);
        destinations.push(ConfiguredDestination { config, from_file, paused });
    }
    destinations
}

impl Admin {
    pub(super) async fn in_force(&self) -> Result<InForce, AdminError> {
        Ok(InForce::of(&self.config, &self.routing).await?)
    }

    pub(super) async fn apply_setup(&self) -> Result<(), AdminError> {
        // Reading keeps a copy beside the database, without a node too.
        let in_force = self.in_force().await?;
        let Some(running) = &self.running else { return Ok(()) };
        running.forward.replace(in_force.setup).await?;
        running.ingest.set_rule_set(running.forward.rule_set());
        Ok(())
    }

    pub(super) async fn apply_peers(&self) -> Result<(), AdminError> {
        let Some(running) = &self.running else { return Ok(()) };
        let peers = self.in_force().await?.peer_configs();
        running.peers.replace(&peers).map_err(|why| AdminError::refused("REFUSED", why))
    }
}
