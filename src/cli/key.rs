//! `relaypacs key`: credentials of machines for the HTTP door.

use clap::{Args, Subcommand};
use serde::Deserialize;

use super::client::{Client, segment};
use super::output::{self, Row};
use crate::auth::Scope;
use crate::clock::{Clock, Millis, SystemClock};
use crate::config::{Config, units};
use crate::control::{KeyLine, NewKey};
use crate::lifecycle::Exit;

#[derive(Subcommand)]
pub enum KeyCommand {
    /// Make a key and print it: this is the only time that it is shown
    Add(AddArgs),
    /// Show keys, without their secrets
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// End a key's validity
    Revoke {
        /// The part of the key between the underscores, as `key list` shows it
        id: String,
    },
}

#[derive(Args)]
pub struct AddArgs {
    /// What the key is for
    name: String,
    /// dicomweb:read, dicomweb:write, api:read, api:write or admin; may be repeated
    #[arg(long, required = true)]
    scope: Vec<Scope>,
    /// When it ends: a time (2027-01-31T00:00:00Z) or a while from now (90d); never, if left out
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
}

#[derive(Deserialize)]
struct Added {
    key: String,
}

impl Row for KeyLine {
    const TITLES: &'static [&'static str] = &["ID", "NAME", "SCOPES", "CREATED", "EXPIRES", "REVOKED"];

    fn cells(&self) -> Vec<String> {
        let scopes: Vec<&str> = self.scopes.iter().map(|scope| scope.as_str()).collect();
        let time = |at: Option<Millis>| at.map_or("-".to_owned(), |at| at.to_string());
        vec![
            self.id.clone(),
            self.name.clone(),
            scopes.join(" "),
            self.created_at.to_string(),
            time(self.expires_at),
            time(self.revoked_at),
        ]
    }
}

pub async fn run(command: KeyCommand, config: &Config) -> anyhow::Result<Exit> {
    let expires_at = match &command {
        KeyCommand::Add(AddArgs { expires: Some(text), .. }) => Some(moment(text, Direction::Ahead)?),
        _ => None,
    };
    Client::with(config, async |client| carry_out(command, expires_at, client).await).await?;
    Ok(Exit::Done)
}

async fn carry_out(command: KeyCommand, expires_at: Option<Millis>, client: &Client) -> anyhow::Result<()> {
    match command {
        KeyCommand::Add(args) => {
            let new = NewKey { name: args.name, scopes: args.scope, expires_at };
            let added: Added = client.post("/keys", &new).await?.json().await?;
            println!("{}", added.key);
        }
        KeyCommand::List { json } => {
            let keys: Vec<KeyLine> = client.get("/keys").await?.list().await?;
            output::list(&keys, json)?;
        }
        KeyCommand::Revoke { id } => {
            client.delete(&format!("/keys/{}", segment(&id))).await?;
            println!("revoked {id}");
        }
    }
    Ok(())
}

/// Which way a duration counts from now.
pub enum Direction {
    Ahead,
    Back,
}

/// A moment as people write it: RFC 3339, or a duration from now.
pub fn moment(text: &str, direction: Direction) -> anyhow::Result<Millis> {
    if let Some(at) = Millis::parse(text) {
        return Ok(at);
    }
    let Some(duration) = units::duration::parse(text) else {
        anyhow::bail!("{text:?} is neither a time such as 2027-01-31T00:00:00Z nor a while such as 24h");
    };
    let now = SystemClock.now();
    Ok(match direction {
        Direction::Ahead => now.plus(duration),
        Direction::Back => Millis(now.0.saturating_sub(duration.as_millis() as u64)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_a_while_from_now() {
        assert_eq!(moment("1970-01-01T00:00:01Z", Direction::Back).unwrap(), Millis(1000));
        assert!(moment("1h", Direction::Back).unwrap() < SystemClock.now());
        assert!(moment("1h", Direction::Ahead).unwrap() > SystemClock.now());
        assert!(moment("yesterday", Direction::Back).is_err());
    }
}
