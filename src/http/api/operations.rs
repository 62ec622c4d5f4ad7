//! Every operation of the API with what it asks of its caller. The router knows no others: one that is missing here
//! is not there, and a test compares the list with the document.

use poem::http::Method;

use crate::auth::Scope;

/// Method, path below `/api/v1` as the router writes it, and the scope that a key needs.
pub const OPERATIONS: &[(Method, &str, Scope)] = &[
    (Method::GET, "/system", Scope::Admin),
    (Method::GET, "/peers", Scope::Admin),
    (Method::POST, "/peers", Scope::Admin),
    (Method::DELETE, "/peers/:ae_title", Scope::Admin),
    (Method::GET, "/destinations", Scope::Admin),
    (Method::POST, "/destinations", Scope::Admin),
    (Method::DELETE, "/destinations/:name", Scope::Admin),
    (Method::POST, "/destinations/:name/echo", Scope::Admin),
    (Method::POST, "/destinations/:name/pause", Scope::Admin),
    (Method::POST, "/destinations/:name/resume", Scope::Admin),
    (Method::POST, "/destinations/:name/backfill", Scope::Admin),
    (Method::POST, "/destinations/:name/requeue", Scope::Admin),
    (Method::POST, "/destinations/:name/cancel", Scope::Admin),
    (Method::GET, "/keys", Scope::Admin),
    (Method::POST, "/keys", Scope::Admin),
    (Method::DELETE, "/keys/:id", Scope::Admin),
];
