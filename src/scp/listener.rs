//! The accept loop: one task per connection, until the node stops.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use crate::lifecycle::Shutdown;

use super::ScpContext;
use super::connection::Connection;

/// Pause after a failed accept: it fails for want of descriptors or memory, which tasks that end
/// give back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The DICOM acceptor.
pub struct Scp;

impl Scp {
    /// Serves associations; returns when it was told to stop and the last one has ended. At `soft`
    /// it accepts no more; an acceptor can't release (PS3.8 §7.2), so what is established goes on
    /// until its peer releases it or asks for nothing more for a while, and is aborted at `hard`.
    pub async fn serve(listener: TcpListener, context: ScpContext, shutdown: Shutdown) {
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.soft.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => admit(&connections, stream, peer, &context, &shutdown),
                Err(error) => {
                    tracing::warn!(%error, "a DICOM connection can't be accepted; raise the limit of open files");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }
}

/// Starts the task of a connection, or drops it when even refusing it would cost too much.
fn admit(
    connections: &TaskTracker,
    stream: TcpStream,
    peer: SocketAddr,
    context: &ScpContext,
    shutdown: &Shutdown,
) {
    let address = peer.ip().to_canonical();
    let within_rate = context.gate.within_rate(address);
    let Some(place) = context.gate.handshake(address) else {
        crate::telemetry::metrics::association_ended("unknown", "rejected");
        tracing::debug!(%address, "connection dropped: too many that have not associated");
        return;
    };
    let connection =
        Connection { address, within_rate, context: context.clone(), shutdown: shutdown.clone() };
    connections.spawn(connection.run(stream, place));
}
