//! Who may use the HTTP door. Until accounts exist: API keys with scopes.

use serde::{Deserialize, Serialize};

/// What a key may do (interfaces: key scopes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    #[serde(rename = "dicomweb:read")]
    DicomwebRead,
    #[serde(rename = "dicomweb:write")]
    DicomwebWrite,
    #[serde(rename = "api:read")]
    ApiRead,
    #[serde(rename = "api:write")]
    ApiWrite,
    #[serde(rename = "admin")]
    Admin,
}

/// The authenticated caller of a request.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Id of the key, safe to log.
    pub id: String,
    pub scopes: Vec<Scope>,
}
