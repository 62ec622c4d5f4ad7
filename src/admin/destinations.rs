//! Where objects go, beside the destinations of the configuration file.

use super::{Admin, AdminError};
use crate::clock::Millis;
use crate::config::{self, DestinationConfig, DestinationKind};
use crate::forward::{ConfiguredDestination, DestinationStatus, Which};
use crate::spool::{Counts, DeliveryState};

impl Admin {
    /// All of them, and what waits for each.
    pub async fn destinations(&self) -> Result<Vec<DestinationStatus>, AdminError> {
        match &self.running {
            Some(running) => Ok(running.forward.destinations()),
            None => self.destinations_at_rest().await,
        }
    }

    /// What can be said without a node: who is configured and what waits.
    async fn destinations_at_rest(&self) -> Result<Vec<DestinationStatus>, AdminError> {
        let setup = self.in_force().await?.setup;
        let counts = self.spool.counts();
        let names: Vec<String> = setup.destinations.iter().map(|each| each.config.name.clone()).collect();
        let gone = DestinationStatus::gone(&counts, |name| names.iter().any(|known| known == name));
        Ok(setup.destinations.into_iter().map(|each| at_rest(each, &counts)).chain(gone).collect())
    }

    /// As it is kept now.
    pub async fn add_destination(
        &self,
        mut destination: DestinationConfig,
    ) -> Result<DestinationConfig, AdminError> {
        self.refuse_destination_of_file(&destination.name)?;
        destination.find_secrets(&self.config.node.data_dir);
        let checked = config::validate_destination(&destination);
        checked.map_err(|why| AdminError::invalid("INVALID_DESTINATION", why))?;
        self.routing.add_destination(&destination, self.clock.now()).await?;
        if let Err(error) = self.apply_setup().await {
            self.routing.remove_destination(&destination.name).await?;
            return Err(error);
        }
        Ok(destination)
    }

    pub async fn remove_destination(&self, name: &str) -> Result<(), AdminError> {
        self.refuse_destination_of_file(name)?;
        if let Some(rule) = self.config.rules.iter().find(|rule| rule.to.iter().any(|to| to == name)) {
            let message = format!("rule {} of the configuration file names {name}", rule.name);
            return Err(AdminError::refused("RULE_NAMES_IT", message));
        }
        let kept = self.routing.kept().await?.destinations;
        let Some(destination) = kept.into_iter().find(|destination| destination.name == name) else {
            return Err(unknown(name));
        };
        self.refuse_if_awaited(name)?;
        self.routing.remove_destination(name).await?;
        if let Err(error) = self.apply_setup().await {
            self.routing.add_destination(&destination, self.clock.now()).await?;
            return Err(error);
        }
        Ok(())
    }

    /// What it answered to a C-ECHO, or to a request.
    pub async fn echo_destination(&self, name: &str) -> Result<String, AdminError> {
        Ok(self.running()?.forward.echo(name).await?)
    }

    pub async fn pause_destination(&self, name: &str) -> Result<(), AdminError> {
        self.known_destination(name).await?;
        self.routing.set_paused(name, Some(self.clock.now())).await?;
        if let Some(running) = &self.running {
            running.forward.pause(name)?;
        }
        Ok(())
    }

    pub async fn resume_destination(&self, name: &str) -> Result<(), AdminError> {
        self.known_destination(name).await?;
        self.routing.set_paused(name, None).await?;
        if let Some(running) = &self.running {
            running.forward.resume(name)?;
        }
        Ok(())
    }

    /// How many objects were queued that were received since then and never went there.
    pub async fn backfill_destination(&self, name: &str, since: Millis) -> Result<u64, AdminError> {
        Ok(self.running()?.forward.backfill(name, since).await?)
    }

    pub async fn requeue(&self, name: &str, which: Which) -> Result<u64, AdminError> {
        Ok(self.running()?.forward.requeue(name, which).await?)
    }

    pub async fn cancel(&self, name: &str, which: Which) -> Result<u64, AdminError> {
        Ok(self.running()?.forward.cancel(name, which).await?)
    }

    fn refuse_destination_of_file(&self, name: &str) -> Result<(), AdminError> {
        if self.config.destinations.iter().any(|destination| destination.name == name) {
            let message = format!("{name} is in the configuration file; change it there");
            return Err(AdminError::refused("OF_FILE", message));
        }
        Ok(())
    }

    /// A running node refuses by itself; without one, nobody else would.
    fn refuse_if_awaited(&self, name: &str) -> Result<(), AdminError> {
        let counts = self.spool.counts();
        let open = [DeliveryState::Queued, DeliveryState::Deferred, DeliveryState::Poisoned]
            .into_iter()
            .map(|state| counts.of(name, state))
            .sum::<u64>();
        if open > 0 {
            let message = format!(
                "{open} deliveries to {name} are open; let them finish, or give them up with `relaypacs destination \
                 cancel {name} --all`"
            );
            return Err(AdminError::refused("DELIVERIES_OPEN", message));
        }
        Ok(())
    }

    async fn known_destination(&self, name: &str) -> Result<(), AdminError> {
        let setup = self.in_force().await?.setup;
        match setup.destinations.iter().any(|destination| destination.config.name == name) {
            true => Ok(()),
            false => Err(unknown(name)),
        }
    }
}

fn unknown(name: &str) -> AdminError {
    AdminError::not_found(format!("no destination is called {name}"))
}

fn at_rest(each: ConfiguredDestination, counts: &Counts) -> DestinationStatus {
    let ConfiguredDestination { config, from_file, paused } = each;
    let (host, port) = (config.host.as_deref().unwrap_or_default(), config.port.unwrap_or_default());
    let address = config.url.clone().unwrap_or_else(|| format!("{host}:{port}"));
    let status = DestinationStatus {
        kind: match config.kind {
            DestinationKind::Dimse => "dimse".to_owned(),
            DestinationKind::Stow => "stow".to_owned(),
        },
        address,
        from_file,
        paused,
        reason: Some("no node runs".to_owned()),
        ..DestinationStatus::default()
    };
    status.counted(&config.name, counts)
}
