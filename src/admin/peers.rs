//! Who may open associations, beside the peers of the configuration file.

use super::{Admin, AdminError, PeerLine};
use crate::config::{self, PeerConfig};

impl Admin {
    pub async fn peers(&self) -> Result<Vec<PeerLine>, AdminError> {
        Ok(self.in_force().await?.peers)
    }

    pub async fn add_peer(&self, peer: &PeerConfig) -> Result<(), AdminError> {
        self.refuse_peer_of_file(peer.ae_title.as_str())?;
        config::validate_peer(peer).map_err(|why| AdminError::invalid("INVALID_PEER", why))?;
        self.routing.add_peer(peer, self.clock.now()).await?;
        self.apply_peers().await
    }

    pub async fn remove_peer(&self, ae_title: &str) -> Result<(), AdminError> {
        self.refuse_peer_of_file(ae_title)?;
        self.routing.remove_peer(ae_title).await?;
        self.apply_peers().await
    }

    fn refuse_peer_of_file(&self, ae_title: &str) -> Result<(), AdminError> {
        if self.config.dicom.peers.iter().any(|other| other.ae_title.as_str() == ae_title) {
            let message = format!("{ae_title} is in the configuration file; change it there");
            return Err(AdminError::refused("OF_FILE", message));
        }
        Ok(())
    }
}
