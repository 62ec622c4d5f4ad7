//! `relaypacs check-config`: the effective configuration. It was validated when it was loaded, but
//! for rules, which may name destinations that commands added. No secret is in it, only the names
//! of the files that hold them.

use crate::config::{Config, ConfigError};
use crate::forward::rule::Rules;
use crate::lifecycle::Exit;
use crate::store::Kept;

pub fn run(config: &Config) -> anyhow::Result<Exit> {
    // The copy beside the database: that may be down, or elsewhere.
    let added = Kept::last_known(&config.node.data_dir).unwrap_or_default().destinations;
    let names = config.destinations.iter().chain(&added).map(|destination| destination.name.clone());
    Rules::new(names.collect(), config.rules.clone()).map_err(ConfigError)?;
    print!("{}", config.to_toml()?);
    Ok(Exit::Done)
}
