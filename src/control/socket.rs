//! The socket itself: made by the node that holds the spool's lock, found by the command line.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use poem::listener::UnixAcceptor;
use poem::{Endpoint, Response, Server};
use tokio::net::UnixListener;

use crate::lifecycle::Shutdown;

const GRACE: Duration = Duration::from_secs(1);

/// Where a node with this data folder listens.
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("control.sock")
}

/// Takes the place of a socket that an earlier process left; call it only under the spool's lock.
/// The name appears only once its mode is right.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let new = path.with_extension("sock.new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&new, path)?;
    Ok(listener)
}

/// Serves until `shutdown`, then takes the name away.
pub async fn serve(
    listener: UnixListener,
    path: PathBuf,
    routes: impl Endpoint<Output = Response> + 'static,
    shutdown: Shutdown,
) {
    let served = async {
        let acceptor = UnixAcceptor::from_std(listener.into_std()?)?;
        let stop = async move { shutdown.soft.cancelled().await };
        Server::new_with_acceptor(acceptor).run_with_graceful_shutdown(routes, stop, Some(GRACE)).await
    };
    if let Err(error) = served.await {
        tracing::error!(%error, "the control socket failed; commands can't reach this node");
    }
    let _ = std::fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_a_killed_process_left_is_replaced_by_one_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        drop(bind(&path).unwrap());
        let _listener = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        tokio::net::UnixStream::connect(&path).await.unwrap();
    }
}
