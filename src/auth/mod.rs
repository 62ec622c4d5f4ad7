//! Who may use the HTTP door. Until accounts exist: API keys with scopes. [`crate::http`] asks
//! [`Keys::authenticate`] for every request; the control socket adds, lists and revokes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub mod api_key;

pub use api_key::{AuthError, KeyInfo, Keys, key_name};

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

impl Scope {
    pub const ALL: [Scope; 5] =
        [Scope::DicomwebRead, Scope::DicomwebWrite, Scope::ApiRead, Scope::ApiWrite, Scope::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Scope::DicomwebRead => "dicomweb:read",
            Scope::DicomwebWrite => "dicomweb:write",
            Scope::ApiRead => "api:read",
            Scope::ApiWrite => "api:write",
            Scope::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a scope: dicomweb:read, dicomweb:write, api:read, api:write or admin")]
pub struct UnknownScope;

impl FromStr for Scope {
    type Err = UnknownScope;
    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Scope::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or(UnknownScope)
    }
}

/// The authenticated caller of a request.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Id of the key, safe to log.
    pub id: String,
    pub scopes: Vec<Scope>,
}

impl Principal {
    /// Whether it holds exactly this scope; none implies another, `admin` included.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_written_as_they_are_read() {
        for scope in Scope::ALL {
            assert_eq!(scope.to_string().parse(), Ok(scope));
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.as_str());
        }
        assert_eq!("root".parse::<Scope>(), Err(UnknownScope));
    }
}
