//! Destinations and peers: those of the configuration file, which are read-only here, and those
//! kept in SQL. After a change the parts that use them get the whole, never a difference.

use poem::handler;
use poem::http::StatusCode;
use poem::web::{Data, Json, Path};
use serde::{Deserialize, Serialize};

use super::{Answer, Control, ControlError, Running, json, lines};
use crate::clock::{Millis, rfc3339};
use crate::config::{self, Config, DestinationConfig, PeerConfig};
use crate::forward::{ConfiguredDestination, DestinationStatus, Setup, Which};
use crate::spool::DeliveryState;
use crate::store::{Routing, RoutingError};

/// A peer as `peer list` shows it.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeerLine {
    #[serde(flatten)]
    pub peer: PeerConfig,
    pub from_file: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Backfill {
    #[serde(with = "rfc3339")]
    pub since: Millis,
}

/// What is in force: the file's and SQL's together.
pub struct InForce {
    pub setup: Setup,
    pub peers: Vec<PeerLine>,
}

impl InForce {
    /// A name that is in both is the file's: the file was changed after SQL took it.
    pub async fn of(config: &Config, routing: &Routing) -> Result<InForce, RoutingError> {
        let kept = routing.kept().await?;
        let of_file = config.destinations.iter().cloned().map(|destination| (destination, true));
        let of_sql = kept.destinations.into_iter().map(|destination| (destination, false));
        let mut destinations: Vec<ConfiguredDestination> = Vec::new();
        for (config, from_file) in of_file.chain(of_sql) {
            if destinations.iter().any(|other| other.config.name == config.name) {
                tracing::warn!(name = %config.name, "a destination added at run time gives way to the file's");
                continue;
            }
            let paused = kept.paused.contains(&config.name);
            destinations.push(ConfiguredDestination { config, from_file, paused });
        }
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

impl Control {
    fn running(&self) -> Result<&Running, ControlError> {
        self.running.as_ref().ok_or_else(ControlError::not_running)
    }

    async fn in_force(&self) -> Result<InForce, ControlError> {
        Ok(InForce::of(&self.config, &self.routing).await?)
    }

    async fn apply_setup(&self) -> Result<(), ControlError> {
        // Reading keeps a copy beside the database, without a node too.
        let in_force = self.in_force().await?;
        let Some(running) = &self.running else { return Ok(()) };
        running.forward.replace(in_force.setup).await?;
        running.ingest.set_rule_set(running.forward.rule_set());
        Ok(())
    }

    async fn apply_peers(&self) -> Result<(), ControlError> {
        let Some(running) = &self.running else { return Ok(()) };
        running.peers.replace(&self.in_force().await?.peer_configs()).map_err(ControlError::refused)
    }

    fn refuse_if_of_file(&self, name: &str) -> Result<(), ControlError> {
        if self.config.destinations.iter().any(|destination| destination.name == name) {
            return Err(ControlError::refused(format!(
                "{name} is in the configuration file; change it there"
            )));
        }
        Ok(())
    }

    /// What an offline list can say: who is configured and what waits.
    async fn destinations_at_rest(&self) -> Result<Vec<DestinationStatus>, ControlError> {
        let setup = self.in_force().await?.setup;
        let counts = self.spool.counts();
        let names: Vec<String> = setup.destinations.iter().map(|each| each.config.name.clone()).collect();
        let gone = DestinationStatus::gone(&counts, |name| names.iter().any(|known| known == name));
        Ok(setup.destinations.into_iter().map(|each| at_rest(each, &counts)).chain(gone).collect())
    }
}

fn at_rest(each: ConfiguredDestination, counts: &crate::spool::Counts) -> DestinationStatus {
    let ConfiguredDestination { config, from_file, paused } = each;
    let (host, port) = (config.host.as_deref().unwrap_or_default(), config.port.unwrap_or_default());
    let address = config.url.clone().unwrap_or_else(|| format!("{host}:{port}"));
    let status = DestinationStatus {
        kind: match config.kind {
            config::DestinationKind::Dimse => "dimse".to_owned(),
            config::DestinationKind::Stow => "stow".to_owned(),
        },
        address,
        from_file,
        paused,
        reason: Some("no node runs".to_owned()),
        ..DestinationStatus::default()
    };
    status.counted(&config.name, counts)
}

#[handler]
pub async fn list_destinations(Data(control): Data<&Control>) -> Answer {
    Ok(lines(match &control.running {
        Some(running) => running.forward.destinations(),
        None => control.destinations_at_rest().await?,
    }))
}

#[handler]
pub async fn add_destination(
    Data(control): Data<&Control>,
    Json(mut destination): Json<DestinationConfig>,
) -> Answer {
    control.refuse_if_of_file(&destination.name)?;
    destination.find_secrets(&control.config.node.data_dir);
    config::validate_destination(&destination).map_err(ControlError::refused)?;
    control.routing.add_destination(&destination, control.clock.now()).await?;
    if let Err(error) = control.apply_setup().await {
        control.routing.remove_destination(&destination.name).await?;
        return Err(error);
    }
    Ok(json(StatusCode::CREATED, &destination))
}

#[handler]
pub async fn remove_destination(Data(control): Data<&Control>, Path(name): Path<String>) -> Answer {
    control.refuse_if_of_file(&name)?;
    if let Some(rule) = control.config.rules.iter().find(|rule| rule.to.contains(&name)) {
        return Err(ControlError::refused(format!(
            "rule {} of the configuration file names {name}",
            rule.name
        )));
    }
    let kept = control.routing.kept().await?.destinations;
    let Some(destination) = kept.into_iter().find(|destination| destination.name == name) else {
        return Err(ControlError::not_found(format!("no destination is called {name}")));
    };
    control.refuse_if_awaited(&name)?;
    control.routing.remove_destination(&name).await?;
    if let Err(error) = control.apply_setup().await {
        control.routing.add_destination(&destination, control.clock.now()).await?;
        return Err(error);
    }
    Ok(json(StatusCode::OK, &serde_json::json!({ "removed": name })))
}

impl Control {
    /// A running node refuses by itself; without one, nobody else would.
    fn refuse_if_awaited(&self, name: &str) -> Result<(), ControlError> {
        let counts = self.spool.counts();
        let open = [DeliveryState::Queued, DeliveryState::Deferred, DeliveryState::Poisoned]
            .into_iter()
            .map(|state| counts.of(name, state))
            .sum::<u64>();
        if open > 0 {
            return Err(ControlError::refused(format!(
                "{open} deliveries to {name} are open; let them finish, or give them up with `relaypacs destination cancel {name} --all`"
            )));
        }
        Ok(())
    }

    async fn known_destination(&self, name: &str) -> Result<(), ControlError> {
        let setup = self.in_force().await?.setup;
        match setup.destinations.iter().any(|destination| destination.config.name == name) {
            true => Ok(()),
            false => Err(ControlError::not_found(format!("no destination is called {name}"))),
        }
    }
}

#[handler]
pub async fn echo_destination(Data(control): Data<&Control>, Path(name): Path<String>) -> Answer {
    let answer = control.running()?.forward.echo(&name).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "destination": name, "answer": answer })))
}

#[handler]
pub async fn pause_destination(Data(control): Data<&Control>, Path(name): Path<String>) -> Answer {
    control.known_destination(&name).await?;
    control.routing.set_paused(&name, Some(control.clock.now())).await?;
    if let Some(running) = &control.running {
        running.forward.pause(&name)?;
    }
    Ok(json(StatusCode::OK, &serde_json::json!({ "paused": name })))
}

#[handler]
pub async fn resume_destination(Data(control): Data<&Control>, Path(name): Path<String>) -> Answer {
    control.known_destination(&name).await?;
    control.routing.set_paused(&name, None).await?;
    if let Some(running) = &control.running {
        running.forward.resume(&name)?;
    }
    Ok(json(StatusCode::OK, &serde_json::json!({ "resumed": name })))
}

#[handler]
pub async fn backfill_destination(
    Data(control): Data<&Control>,
    Path(name): Path<String>,
    Json(asked): Json<Backfill>,
) -> Answer {
    let queued = control.running()?.forward.backfill(&name, asked.since).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "destination": name, "queued": queued })))
}

#[handler]
pub async fn requeue_destination(
    Data(control): Data<&Control>,
    Path(name): Path<String>,
    Json(which): Json<Which>,
) -> Answer {
    let queued = control.running()?.forward.requeue(&name, which).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "destination": name, "queued": queued })))
}

#[handler]
pub async fn cancel_destination(
    Data(control): Data<&Control>,
    Path(name): Path<String>,
    Json(which): Json<Which>,
) -> Answer {
    let cancelled = control.running()?.forward.cancel(&name, which).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "destination": name, "cancelled": cancelled })))
}

#[handler]
pub async fn list_peers(Data(control): Data<&Control>) -> Answer {
    Ok(lines(control.in_force().await?.peers))
}

#[handler]
pub async fn add_peer(Data(control): Data<&Control>, Json(peer): Json<PeerConfig>) -> Answer {
    if control.config.dicom.peers.iter().any(|other| other.ae_title == peer.ae_title) {
        let message = format!("{} is in the configuration file; change it there", peer.ae_title);
        return Err(ControlError::refused(message));
    }
    config::validate_peer(&peer).map_err(ControlError::refused)?;
    control.routing.add_peer(&peer, control.clock.now()).await?;
    control.apply_peers().await?;
    Ok(json(StatusCode::CREATED, &peer))
}

#[handler]
pub async fn remove_peer(Data(control): Data<&Control>, Path(ae_title): Path<String>) -> Answer {
    if control.config.dicom.peers.iter().any(|other| other.ae_title.as_str() == ae_title) {
        return Err(ControlError::refused(format!(
            "{ae_title} is in the configuration file; change it there"
        )));
    }
    control.routing.remove_peer(&ae_title).await?;
    control.apply_peers().await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "removed": ae_title })))
}
