//! `relaypacs serve`: runs the node until a signal, and says at the start what there is to use.

use std::io::Write;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{Admission, Config};
use crate::lifecycle::Exit;
use crate::node::Node;
use crate::telemetry::logging;

pub async fn run(config: Config) -> anyhow::Result<Exit> {
    logging::start(&config.telemetry);
    raise_file_limit();
    let node = Node::start(config).await?;
    node.lifecycle.watch_signals()?;
    announce(&node).await;
    Ok(node.run().await)
}

/// Connections and the files of large objects: the 1,024 that systems give a process by default
/// are fewer than `limits` allows, and one that can't be opened is an object refused.
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => tracing::debug!(?maximum, "open files allowed"),
        Err(error) => tracing::warn!(%error, ?current, "the limit of open files can't be raised"),
    }
}

/// On standard output, for the person who started it; the log says the same on standard error.
async fn announce(node: &Node) {
    let (addresses, config) = (&node.addresses, &node.foundation.config);
    let ae_title = &config.dicom.ae_title[0];
    let mut text = format!("RelayPACS {} \"{}\"\n", env!("CARGO_PKG_VERSION"), config.node.name);
    for address in &addresses.dicom {
        let admission = match config.dicom.admission {
            Some(Admission::Any) => "any calling AE title",
            _ => "known peers only",
        };
        text += &format!("  DICOM      {address}  AE title {ae_title}  ({admission})\n");
        tracing::info!(%address, ae_title = %ae_title, "DICOM listener open");
    }
    for address in &addresses.http {
        text += &format!("  DICOMweb   http://{address}/dicom-web  (with an API key)\n");
        tracing::info!(%address, "HTTP listener open");
    }
    if let Some(address) = addresses.telemetry {
        text += &format!("  metrics    http://{address}/metrics\n");
        tracing::info!(%address, "telemetry listener open");
    }
    text += &format!("  data       {}\n", config.node.data_dir.display());
    for destination in node.running.forward.destinations() {
        text += &format!("  forwards   to {} ({})\n", destination.name, destination.address);
    }
    if node.foundation.keys.list().await.is_ok_and(|keys| keys.is_empty()) {
        text += "  no API key yet: relaypacs key add NAME --scope dicomweb:read --scope dicomweb:write\n";
    }
    // Nobody may be reading it.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
