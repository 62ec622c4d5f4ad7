-- API keys: machine credentials for the HTTP door. Authoritative: a backup must hold them.
CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    -- SHA-256 of the whole key, in hex; the key itself is shown once and kept nowhere.
    sha256 TEXT NOT NULL,
    -- Scopes, separated by spaces.
    scopes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    -- Milliseconds since 1970; NULL is never.
    expires_at BIGINT,
    revoked_at BIGINT
);
