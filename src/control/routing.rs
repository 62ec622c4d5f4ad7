//! Destinations and peers.

use poem::handler;
use poem::http::StatusCode;
use poem::web::{Data, Json, Path};
use serde::{Deserialize, Serialize};

use super::{Answer, json, lines};
use crate::admin::Admin;
use crate::clock::{Millis, rfc3339};
use crate::config::{DestinationConfig, PeerConfig};
use crate::forward::Which;

#[derive(Debug, Serialize, Deserialize)]
pub struct Backfill {
    #[serde(with = "rfc3339")]
    pub since: Millis,
}

/// An answer of one line.
fn done(line: serde_json::Value) -> Answer {
    Ok(json(StatusCode::OK, &line))
}

#[handler]
pub async fn list_destinations(Data(admin): Data<&Admin>) -> Answer {
    Ok(lines(admin.destinations().await?))
}

#[handler]
pub async fn add_destination(
    Data(admin): Data<&Admin>,
    Json(destination): Json<DestinationConfig>,
) -> Answer {
    Ok(json(StatusCode::CREATED, &admin.add_destination(destination).await?))
}

#[handler]
pub async fn remove_destination(Data(admin): Data<&Admin>, Path(name): Path<String>) -> Answer {
    admin.remove_destination(&name).await?;
    done(serde_json::json!({ "removed": name }))
}

#[handler]
pub async fn echo_destination(Data(admin): Data<&Admin>, Path(name): Path<String>) -> Answer {
    let answer = admin.echo_destination(&name).await?;
    done(serde_json::json!({ "destination": name, "answer": answer }))
}

#[handler]
pub async fn pause_destination(Data(admin): Data<&Admin>, Path(name): Path<String>) -> Answer {
    admin.pause_destination(&name).await?;
    done(serde_json::json!({ "paused": name }))
}

#[handler]
pub async fn resume_destination(Data(admin): Data<&Admin>, Path(name): Path<String>) -> Answer {
    admin.resume_destination(&name).await?;
    done(serde_json::json!({ "resumed": name }))
}

#[handler]
pub async fn backfill_destination(
    Data(admin): Data<&Admin>,
    Path(name): Path<String>,
    Json(asked): Json<Backfill>,
) -> Answer {
    let queued = admin.backfill_destination(&name, asked.since).await?;
    done(serde_json::json!({ "destination": name, "queued": queued }))
}

#[handler]
pub async fn requeue_destination(
    Data(admin): Data<&Admin>,
    Path(name): Path<String>,
    Json(which): Json<Which>,
) -> Answer {
    let queued = admin.requeue(&name, which).await?;
    done(serde_json::json!({ "destination": name, "queued": queued }))
}

#[handler]
pub async fn cancel_destination(
    Data(admin): Data<&Admin>,
    Path(name): Path<String>,
    Json(which): Json<Which>,
) -> Answer {
    let cancelled = admin.cancel(&name, which).await?;
    done(serde_json::json!({ "destination": name, "cancelled": cancelled }))
}

#[handler]
pub async fn list_peers(Data(admin): Data<&Admin>) -> Answer {
    Ok(lines(admin.peers().await?))
}

#[handler]
pub async fn add_peer(Data(admin): Data<&Admin>, Json(peer): Json<PeerConfig>) -> Answer {
    admin.add_peer(&peer).await?;
    Ok(json(StatusCode::CREATED, &peer))
}

#[handler]
pub async fn remove_peer(Data(admin): Data<&Admin>, Path(ae_title): Path<String>) -> Answer {
    admin.remove_peer(&ae_title).await?;
    done(serde_json::json!({ "removed": ae_title }))
}
