//! Who may open associations.

use poem::web::Data;
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object, OpenApi};

use super::{Tag, ae_title};
use crate::admin::{Admin, PeerLine};
use crate::config::PeerConfig;
use crate::http::error::ApiError;

pub struct PeersApi;

/// An application entity that may open associations, where `dicom.admission` is `known`.
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct Peer {
    /// 1 to 16 characters.
    #[oai(validator(min_length = 1, max_length = 16))]
    ae_title: String,
    /// Addresses or networks (CIDR) that it may come from; none: any.
    #[oai(default)]
    allow: Vec<String>,
    /// Where it listens, for C-MOVE and storage commitment.
    #[oai(skip_serializing_if_is_none)]
    host: Option<String>,
    #[oai(skip_serializing_if_is_none, validator(minimum(value = "1")))]
    port: Option<u16>,
    /// It sends in bulk and can wait: refused for now from `spool.high_watermark` on.
    #[oai(default)]
    bulk: bool,
    /// The configuration file names it: it is changed there.
    #[oai(default, read_only)]
    from_file: bool,
}

impl poem_openapi::types::Example for Peer {
    fn example() -> Self {
        Peer {
            ae_title: "CT_1".into(),
            allow: vec!["10.1.4.0/24".into()],
            host: Some("10.1.4.7".into()),
            port: Some(104),
            bulk: false,
            from_file: false,
        }
    }
}

impl From<PeerLine> for Peer {
    fn from(PeerLine { peer, from_file }: PeerLine) -> Self {
        let (allow, host, port, bulk) = (peer.allow, peer.host, peer.port, peer.bulk);
        Self { ae_title: peer.ae_title.to_string(), allow, host, port, bulk, from_file }
    }
}

impl TryFrom<&Peer> for PeerConfig {
    type Error = ApiError;

    fn try_from(peer: &Peer) -> Result<Self, ApiError> {
        let Peer { allow, host, port, bulk, .. } = peer;
        Ok(PeerConfig {
            ae_title: ae_title(&peer.ae_title)?,
            allow: allow.clone(),
            host: host.clone(),
            port: *port,
            bulk: *bulk,
        })
    }
}

#[derive(Object)]
struct Peers {
    items: Vec<Peer>,
}

#[derive(ApiResponse)]
enum Added {
    /// It is admitted from now on.
    #[oai(status = 201)]
    Peer(Json<Peer>),
}

#[derive(ApiResponse)]
enum Removed {
    /// It is admitted no more; associations that are open go on.
    #[oai(status = 204)]
    Gone,
}

#[OpenApi(tag = "Tag::Peers")]
impl PeersApi {
    /// Peers of the configuration file, and those that were added.
    #[oai(path = "/peers", method = "get", operation_id = "list_peers")]
    async fn list(&self, admin: Data<&Admin>) -> Result<Json<Peers>, ApiError> {
        let items = admin.peers().await?.into_iter().map(Peer::from).collect();
        Ok(Json(Peers { items }))
    }

    /// Adds a peer.
    #[oai(path = "/peers", method = "post", operation_id = "add_peer")]
    async fn add(&self, admin: Data<&Admin>, peer: Json<Peer>) -> Result<Added, ApiError> {
        admin.add_peer(&PeerConfig::try_from(&peer.0)?).await?;
        Ok(Added::Peer(peer))
    }

    /// Removes a peer that was added.
    #[oai(path = "/peers/:ae_title", method = "delete", operation_id = "remove_peer")]
    async fn remove(&self, admin: Data<&Admin>, ae_title: Path<String>) -> Result<Removed, ApiError> {
        admin.remove_peer(&ae_title.0).await?;
        Ok(Removed::Gone)
    }
}
