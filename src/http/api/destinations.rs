//! Where the node delivers what it receives.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use poem::http::StatusCode;
use poem::web::Data;
use poem_openapi::param;
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{ApiResponse, Enum, Object, OpenApi};

use super::{Tag, ae_title};
use crate::admin::Admin;
use crate::clock::Millis;
use crate::config::{DestinationConfig, DestinationKind, Verify, units};
use crate::forward::{DestinationStatus, Which};
use crate::http::error::ApiError;
use crate::spool::EntryId;

pub struct DestinationsApi;

#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "lowercase")]
enum Kind {
    Dimse,
    Stow,
}

/// What proves that it holds an object.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "lowercase")]
enum Proof {
    Commitment,
    Query,
    None,
}

/// An archive, as it is added.
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct NewDestination {
    #[oai(validator(min_length = 1, max_length = 64))]
    name: String,
    kind: Kind,
    /// Its AE title (dimse).
    #[oai(skip_serializing_if_is_none)]
    ae_title: Option<String>,
    /// Ours towards it; the node's, if left out.
    #[oai(skip_serializing_if_is_none)]
    calling_ae_title: Option<String>,
    #[oai(skip_serializing_if_is_none)]
    host: Option<String>,
    #[oai(skip_serializing_if_is_none)]
    port: Option<u16>,
    /// Base of its DICOMweb service (stow).
    #[oai(skip_serializing_if_is_none)]
    url: Option<String>,
    #[oai(skip_serializing_if_is_none)]
    username: Option<String>,
    /// Name of a file with the password, mode 0600, in `secrets/destinations` of the data folder.
    #[oai(skip_serializing_if_is_none)]
    password_file: Option<String>,
    /// Name of a file with a bearer token, as `password_file`.
    #[oai(skip_serializing_if_is_none)]
    token_file: Option<String>,
    /// `commitment` for dimse and `query` for stow, if left out.
    #[oai(skip_serializing_if_is_none)]
    verify: Option<Proof>,
    /// Its DICOMweb service, to verify by QIDO-RS instead of C-FIND.
    #[oai(skip_serializing_if_is_none)]
    query_url: Option<String>,
    /// Whether its proof is enough to free an object.
    #[oai(default = "yes")]
    required: bool,
    /// In parallel.
    #[oai(default = "two", validator(minimum(value = "1"), maximum(value = "32")))]
    associations: u32,
    /// Objects per association.
    #[oai(default = "two_hundred", validator(minimum(value = "1")))]
    batch: u32,
    /// For connecting, and for each answer.
    #[oai(default = "half_a_minute")]
    timeout: String,
    /// Proof that did not come by then is asked for again.
    #[oai(default = "an_hour")]
    verify_deadline: String,
}

fn yes() -> bool {
    true
}

fn two() -> u32 {
    2
}

fn two_hundred() -> u32 {
    200
}

fn half_a_minute() -> String {
    "30s".to_owned()
}

fn an_hour() -> String {
    "1h".to_owned()
}

impl Example for NewDestination {
    fn example() -> Self {
        NewDestination {
            name: "pacs".into(),
            kind: Kind::Dimse,
            ae_title: Some("ARCHIVE".into()),
            calling_ae_title: None,
            host: Some("10.1.4.20".into()),
            port: Some(11112),
            url: None,
            username: None,
            password_file: None,
            token_file: None,
            verify: Some(Proof::Commitment),
            query_url: None,
            required: true,
            associations: 2,
            batch: 200,
            timeout: half_a_minute(),
            verify_deadline: an_hour(),
        }
    }
}

impl TryFrom<&NewDestination> for DestinationConfig {
    type Error = ApiError;

    fn try_from(new: &NewDestination) -> Result<Self, ApiError> {
        let title = |title: &Option<String>| title.as_deref().map(ae_title).transpose();
        let kind = match new.kind {
            Kind::Dimse => DestinationKind::Dimse,
            Kind::Stow => DestinationKind::Stow,
        };
        let verify = match new.verify {
            Some(Proof::Commitment) => Verify::Commitment,
            Some(Proof::Query) => Verify::Query,
            Some(Proof::None) => Verify::None,
            None => kind.usual_verify(),
        };
        Ok(DestinationConfig {
            name: new.name.clone(),
            kind,
            ae_title: title(&new.ae_title)?,
            calling_ae_title: title(&new.calling_ae_title)?,
            host: new.host.clone(),
            port: new.port,
            url: new.url.clone(),
            username: new.username.clone(),
            password_file: secret("password_file", &new.password_file)?,
            token_file: secret("token_file", &new.token_file)?,
            verify,
            query_url: new.query_url.clone(),
            required: new.required,
            associations: new.associations as usize,
            batch: new.batch as usize,
            timeout: duration("timeout", &new.timeout)?,
            verify_deadline: duration("verify_deadline", &new.verify_deadline)?,
        })
    }
}

/// Of the node's files only those that are meant for it: whoever asks also says to whom its content is sent.
fn secret(member: &str, name: &Option<String>) -> Result<Option<PathBuf>, ApiError> {
    let Some(name) = name else { return Ok(None) };
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(file)), None) => Ok(Some(Path::new("secrets/destinations").join(file))),
        _ => {
            Err(invalid(format!("{member} is no name of a file in the data folder's secrets/destinations.")))
        }
    }
}

fn duration(name: &str, text: &str) -> Result<Duration, ApiError> {
    units::duration::parse(text)
        .ok_or_else(|| invalid(format!("{name} is not a duration such as 30s or 1h.")))
}

fn invalid(detail: String) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "INVALID_DESTINATION", detail)
}

/// A destination, and how what waits for it stands.
#[derive(Object)]
struct Destination {
    name: String,
    /// `dimse`, `stow`, or `gone`: not configured any more.
    kind: String,
    address: String,
    /// The configuration file names it: it is changed there.
    from_file: bool,
    paused: bool,
    up: bool,
    /// Why it is down.
    #[oai(skip_serializing_if_is_none)]
    reason: Option<String>,
    /// When it is tried next.
    #[oai(skip_serializing_if_is_none)]
    next_try: Option<String>,
    queued: u64,
    sent: u64,
    verified: u64,
    deferred: u64,
    poisoned: u64,
}

impl From<DestinationStatus> for Destination {
    fn from(status: DestinationStatus) -> Self {
        let DestinationStatus { name, kind, address, from_file, paused, up, reason, next_try, .. } = status;
        let DestinationStatus { queued, sent, verified, deferred, poisoned, .. } = status;
        let next_try = next_try.map(|at| at.to_string());
        Self {
            name,
            kind,
            address,
            from_file,
            paused,
            up,
            reason,
            next_try,
            queued,
            sent,
            verified,
            deferred,
            poisoned,
        }
    }
}

#[derive(Object)]
struct Destinations {
    items: Vec<Destination>,
}

#[derive(ApiResponse)]
enum Added {
    /// It takes what arrives from now on.
    #[oai(status = 201)]
    Destination(Json<NewDestination>),
}

#[derive(ApiResponse)]
enum Done {
    /// It is so.
    #[oai(status = 204)]
    Done,
}

/// What a destination answered.
#[derive(Object)]
struct Echoed {
    answer: String,
}

/// Since when.
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct Backfill {
    /// RFC 3339.
    since: String,
}

impl Example for Backfill {
    fn example() -> Self {
        Backfill { since: "2026-11-01T00:00:00Z".into() }
    }
}

/// Which deliveries.
#[derive(Object, Default)]
#[oai(deny_unknown_fields)]
struct Selection {
    /// Not only those that were refused for good.
    #[oai(default)]
    all: bool,
    /// This one alone, by the number of its entry.
    #[oai(skip_serializing_if_is_none)]
    entry: Option<u64>,
}

impl From<&Selection> for Which {
    fn from(selection: &Selection) -> Self {
        match selection.entry {
            Some(entry) => Which::Entry(EntryId(entry)),
            None if selection.all => Which::All,
            None => Which::Poisoned,
        }
    }
}

/// How many deliveries an order concerned.
#[derive(Object)]
struct Count {
    deliveries: u64,
}

#[OpenApi(tag = "Tag::Destinations")]
impl DestinationsApi {
    /// All destinations, with those that are gone while something waits for them.
    #[oai(path = "/destinations", method = "get", operation_id = "list_destinations")]
    async fn list(&self, admin: Data<&Admin>) -> Result<Json<Destinations>, ApiError> {
        let items = admin.destinations().await?.into_iter().map(Destination::from).collect();
        Ok(Json(Destinations { items }))
    }

    /// Adds a destination.
    #[oai(path = "/destinations", method = "post", operation_id = "add_destination")]
    async fn add(&self, admin: Data<&Admin>, new: Json<NewDestination>) -> Result<Added, ApiError> {
        admin.add_destination(DestinationConfig::try_from(&new.0)?).await?;
        Ok(Added::Destination(new))
    }

    /// Removes a destination that was added and for which nothing waits.
    #[oai(path = "/destinations/:name", method = "delete", operation_id = "remove_destination")]
    async fn remove(&self, admin: Data<&Admin>, name: param::Path<String>) -> Result<Done, ApiError> {
        admin.remove_destination(&name.0).await?;
        Ok(Done::Done)
    }

    /// Connects to it and asks for nothing.
    #[oai(path = "/destinations/:name/echo", method = "post", operation_id = "echo_destination")]
    async fn echo(&self, admin: Data<&Admin>, name: param::Path<String>) -> Result<Json<Echoed>, ApiError> {
        Ok(Json(Echoed { answer: admin.echo_destination(&name.0).await? }))
    }

    /// Begins no more deliveries to it, also after a restart.
    #[oai(path = "/destinations/:name/pause", method = "post", operation_id = "pause_destination")]
    async fn pause(&self, admin: Data<&Admin>, name: param::Path<String>) -> Result<Done, ApiError> {
        admin.pause_destination(&name.0).await?;
        Ok(Done::Done)
    }

    /// Goes on delivering.
    #[oai(path = "/destinations/:name/resume", method = "post", operation_id = "resume_destination")]
    async fn resume(&self, admin: Data<&Admin>, name: param::Path<String>) -> Result<Done, ApiError> {
        admin.resume_destination(&name.0).await?;
        Ok(Done::Done)
    }

    /// Queues what was received before, for a destination that never got it.
    #[oai(path = "/destinations/:name/backfill", method = "post", operation_id = "backfill_destination")]
    async fn backfill(
        &self,
        admin: Data<&Admin>,
        name: param::Path<String>,
        asked: Json<Backfill>,
    ) -> Result<Json<Count>, ApiError> {
        let since = Millis::parse(&asked.since).ok_or_else(|| {
            invalid("since is neither a time (2026-11-01T18:00:00Z) nor a date.".to_owned())
        })?;
        Ok(Json(Count { deliveries: admin.backfill_destination(&name.0, since).await? }))
    }

    /// Tries again what was refused for good or, with `all`, also what was put off or given up.
    #[oai(path = "/destinations/:name/requeue", method = "post", operation_id = "requeue")]
    async fn requeue(
        &self,
        admin: Data<&Admin>,
        name: param::Path<String>,
        which: Json<Selection>,
    ) -> Result<Json<Count>, ApiError> {
        Ok(Json(Count { deliveries: admin.requeue(&name.0, Which::from(&which.0)).await? }))
    }

    /// Gives up what was refused for good or, with `all`, all that is not verified; the objects stay here.
    #[oai(path = "/destinations/:name/cancel", method = "post", operation_id = "cancel")]
    async fn cancel(
        &self,
        admin: Data<&Admin>,
        name: param::Path<String>,
        which: Json<Selection>,
    ) -> Result<Json<Count>, ApiError> {
        Ok(Json(Count { deliveries: admin.cancel(&name.0, Which::from(&which.0)).await? }))
    }
}
