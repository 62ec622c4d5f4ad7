//! `relaypacs echo`: C-ECHO to a peer (PS3.4 annex A).

use std::time::Instant;

use clap::Args;

use super::remote::RemoteArgs;
use crate::config::Config;
use crate::dicom::sop_class::VERIFICATION;
use crate::dicom::status::Status;
use crate::dicom::transfer_syntax::{EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN};
use crate::dimse::scu::{Association, Proposal};
use crate::lifecycle::Exit;

/// Ask a peer whether it is there (C-ECHO)
#[derive(Debug, Args)]
pub struct EchoArgs {
    #[command(flatten)]
    remote: RemoteArgs,
}

pub async fn run(args: EchoArgs, config: &Config) -> anyhow::Result<Exit> {
    let peer = args.remote.peer(config)?;
    let proposal = Proposal {
        abstract_syntax: VERIFICATION.to_owned(),
        transfer_syntaxes: vec![IMPLICIT_LITTLE_ENDIAN.to_owned(), EXPLICIT_LITTLE_ENDIAN.to_owned()],
        scp_role: false,
    };
    let begun = Instant::now();
    let mut association = Association::connect(&peer, &[proposal]).await?;
    let answered = association.echo().await;
    association.release().await;
    let status = answered?;
    let milliseconds = begun.elapsed().as_millis();
    println!("{} answered {status} after {milliseconds} ms", peer.called_ae_title);
    Ok(if status == Status::SUCCESS { Exit::Done } else { Exit::Failed })
}
