//! `relaypacs check-config`: the effective configuration. It was validated when it was loaded; no
//! secret is in it, only the names of the files that hold them.

use crate::config::Config;
use crate::lifecycle::Exit;

pub fn run(config: &Config) -> anyhow::Result<Exit> {
    print!("{}", config.to_toml()?);
    Ok(Exit::Done)
}
