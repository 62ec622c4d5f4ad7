//! From the `Authorization` header to a [`Principal`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use poem::http::{HeaderMap, HeaderValue, header};

use super::error::ApiError;
use crate::auth::{AuthError, Keys, Principal};

/// The caller, by `Bearer rp_…` or by Basic with user = key id and password = the whole key
/// (for clients that know only Basic).
pub async fn authenticate(keys: &Keys, headers: &HeaderMap) -> Result<Principal, ApiError> {
    let credentials = headers
        .get(header::AUTHORIZATION)
        .ok_or_else(|| ApiError::unauthorized("This address needs an API key."))?;
    let key = key_of(credentials)
        .ok_or_else(|| ApiError::unauthorized("The Authorization header holds no API key."))?;
    keys.authenticate(&key).await.map_err(|error| match error {
        AuthError::Invalid => ApiError::unauthorized("The API key is not valid."),
        AuthError::Unavailable(reason) => {
            tracing::warn!(%reason, "API keys can't be checked");
            ApiError::unavailable("DATABASE_UNAVAILABLE", "The key can't be checked at the moment.")
        }
    })
}

fn key_of(credentials: &HeaderValue) -> Option<String> {
    let (scheme, value) = credentials.to_str().ok()?.split_once(' ')?;
    let value = value.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(value).ok()?).ok()?;
    let (user, password) = pair.split_once(':')?;
    // The user must name the key, so that a log of user names tells the truth.
    let names_the_key = password.strip_prefix("rp_")?.strip_prefix(user)?.starts_with('_');
    names_the_key.then(|| password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Option<String> {
        key_of(&HeaderValue::from_str(text).unwrap())
    }

    #[test]
    fn bearer_and_basic_carry_the_same_key() {
        assert_eq!(key("Bearer rp_ab_cd").as_deref(), Some("rp_ab_cd"));
        assert_eq!(key("bearer rp_ab_cd").as_deref(), Some("rp_ab_cd"));
        let basic = format!("Basic {}", STANDARD.encode("ab:rp_ab_cd"));
        assert_eq!(key(&basic).as_deref(), Some("rp_ab_cd"));
    }

    #[test]
    fn other_schemes_and_foreign_users_carry_none() {
        let foreign = format!("Basic {}", STANDARD.encode("xy:rp_ab_cd"));
        for text in ["Digest x", "Basic !!", "Bearer", "", &foreign] {
            assert_eq!(key(text), None, "{text:?}");
        }
    }
}
