//! The command line: one file per subcommand. A command that concerns a node asks it over its
//! control socket, and opens the data folder itself only when none answers ([`client`]). What
//! goes wrong becomes one sentence on standard error and an exit code: 0 done, 1 failed, 2 usage,
//! 75 storage failure, 78 configuration.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError};
use crate::lifecycle::Exit;
use crate::spool::SpoolError;
use crate::store::StoreError;

mod check_config;
pub mod client;
mod destination;
mod echo;
mod find;
mod healthcheck;
mod key;
mod migrate;
mod openapi;
mod output;
mod peer;
mod reindex;
mod remote;
mod send;
mod serve;
mod spool;

/// Threads that wait for disks: enough to keep one busy. Each costs memory.
const BLOCKING_THREADS: usize = 64;

#[derive(Parser)]
#[command(name = "relaypacs", version, about, arg_required_else_help = true)]
struct Cli {
    /// Configuration file; what it does not say is as in the embedded default
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the node; SIGTERM drains, a second one aborts
    Serve,
    /// Validate the configuration and print it as it is in force
    CheckConfig,
    /// Print the OpenAPI document of the REST API
    Openapi,
    /// Exit with 0 when a node runs here and takes objects, else 1
    Healthcheck,
    /// Change the tables of the database, or show how they stand
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// Rebuild the index from the spool, keeping the rows of freed objects
    Reindex,
    /// Look into the spool
    #[command(subcommand)]
    Spool(spool::SpoolCommand),
    /// Where objects go
    #[command(subcommand)]
    Destination(destination::DestinationCommand),
    /// Who may open associations
    #[command(subcommand)]
    Peer(peer::PeerCommand),
    /// API keys for the HTTP door
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Ask a peer whether it is there (C-ECHO)
    Echo(echo::EchoArgs),
    /// Send Part 10 files to a peer (C-STORE)
    Send(send::SendArgs),
    /// Ask a peer what it has (C-FIND)
    Find(find::FindArgs),
}

/// The whole program.
pub fn main() -> ExitCode {
    // Before any connection can be made: one provider, stated once.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // What is written is patients' data, or locks and logs beside it.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let cli = Cli::parse();
    let exit = match Config::load(cli.config.as_deref())
        .map_err(anyhow::Error::from)
        .and_then(|config| run(cli.command, config))
    {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("relaypacs: {}", sentence(&error));
            exit_of(&error)
        }
    };
    exit.into()
}

fn run(command: Command, config: Config) -> anyhow::Result<Exit> {
    if let Command::CheckConfig = command {
        return check_config::run(&config);
    }
    if let Command::Openapi = command {
        return openapi::run();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    if let Command::Serve = command {
        return runtime.block_on(serve::run(config));
    }
    crate::telemetry::logging::start_for_commands();
    runtime.block_on(async {
        match command {
            Command::Serve | Command::CheckConfig | Command::Openapi => unreachable!("run above"),
            Command::Healthcheck => healthcheck::run(&config).await,
            Command::Migrate(command) => migrate::run(command, &config).await,
            Command::Reindex => reindex::run(&config).await,
            Command::Spool(command) => spool::run(command, &config).await,
            Command::Destination(command) => destination::run(command, &config).await,
            Command::Peer(command) => peer::run(command, &config).await,
            Command::Key(command) => key::run(command, &config).await,
            Command::Echo(args) => echo::run(args, &config).await,
            Command::Send(args) => send::run(args, &config).await,
            Command::Find(args) => find::run(args, &config).await,
        }
    })
}

/// The error and its causes, each said once: many quote their cause themselves.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if said.is_empty() {
            said = cause;
        } else if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

/// A failure that knows its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub message: String,
    pub exit: Exit,
}

impl Failure {
    /// Values that can't be, alone or together.
    fn usage(why: impl std::fmt::Display) -> Self {
        Self { message: why.to_string(), exit: Exit::Usage }
    }
}

/// What went wrong decides the exit code, wherever it was wrapped.
fn exit_of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(exit_of_cause).unwrap_or(Exit::Failed)
}

fn exit_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if cause.is::<ConfigError>() {
        return Some(Exit::Configuration);
    }
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(failure.exit);
    }
    if let Some(error) = cause.downcast_ref::<SpoolError>() {
        return Some(match error {
            SpoolError::Locked(_) => Exit::Failed,
            SpoolError::Unfit { .. } => Exit::Configuration,
            _ => Exit::Storage,
        });
    }
    cause.downcast_ref::<StoreError>().map(|error| match error {
        StoreError::Url(_) => Exit::Configuration,
        StoreError::File { .. } => Exit::Storage,
        _ => Exit::Failed,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_cause_is_said_once() {
        use anyhow::Context;
        let source = || std::io::Error::other("denied");
        let quoted = SpoolError::Io { path: "spool".into(), source: source() };
        assert_eq!(sentence(&quoted.into()), "spool spool: denied");
        let wrapped = Err::<(), _>(source()).context("opening").unwrap_err();
        assert_eq!(sentence(&wrapped), "opening: denied");
    }

    #[test]
    fn what_went_wrong_decides_the_exit_code() {
        use anyhow::Context;
        let storage = Err::<(), _>(SpoolError::Failed("sync".into())).context("opening").unwrap_err();
        assert_eq!(exit_of(&storage), Exit::Storage);
        assert_eq!(exit_of(&ConfigError::new("dicom.listen: is empty").into()), Exit::Configuration);
        assert_eq!(exit_of(&SpoolError::Locked("data".into()).into()), Exit::Failed);
        assert_eq!(exit_of(&anyhow::anyhow!("anything")), Exit::Failed);
    }
}
