//! All SQL of the store, so that one test can prepare every statement.

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $sql:literal;)*) => {
        $($(#[$doc])* pub(super) const $name: &str = $sql;)*
        /// Name and text of each statement.
        #[cfg(test)]
        pub(super) const ALL: &[(&str, &str)] = &[$((stringify!($name), $sql)),*];
    };
}

statements! {
    TRUST_DOMAIN = "SELECT name, root_hash, created_at, epoch, version, bundle_sequence, highest_time, audit_chain FROM trust_domain";
    INSERT_TRUST_DOMAIN = "INSERT INTO trust_domain (singleton, name, root_hash, created_at, epoch, version, bundle_sequence, highest_time, audit_chain) \
        VALUES (1, ?1, ?2, ?3, ?4, 0, 1, ?3, ?5)";
    NEXT_VERSION = "UPDATE trust_domain SET version = version + 1 RETURNING version";
    NEXT_BUNDLE_SEQUENCE = "UPDATE trust_domain SET bundle_sequence = bundle_sequence + 1 RETURNING bundle_sequence";
    SET_HIGHEST_TIME = "UPDATE trust_domain SET highest_time = ?1";
    SET_EPOCH = "UPDATE trust_domain SET epoch = ?1";

    LAST_RECORD = "SELECT seq, hash FROM audit_record WHERE chain = ?1 ORDER BY seq DESC LIMIT 1";
    RECORD_HASH = "SELECT hash FROM audit_record WHERE chain = ?1 AND seq = ?2";
    INSERT_RECORD = "INSERT INTO audit_record (chain, seq, at, kind, body, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    INSERT_HEAD = "INSERT INTO audit_head (chain, seq, at, hash, authority, signature) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    RECORDS_UPWARDS = "SELECT seq, at, kind, body, hash FROM audit_record WHERE chain = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
    RECORDS_DOWNWARDS = "SELECT seq, at, kind, body FROM audit_record WHERE chain = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3";
    HEADS_UPWARDS = "SELECT seq, at, hash, authority, signature FROM audit_head WHERE chain = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq";
    OTHER_CHAIN = "SELECT chain FROM audit_record WHERE chain <> ?1 LIMIT 1";
    HEADS_AFTER = "SELECT seq FROM audit_head WHERE chain = ?1 AND seq > ?2 LIMIT 1";

    AUTHORITIES = "SELECT id, kind, certificate, public_key, not_before, not_after, published_at, active_from, activated_at, retired_at, withdraw_at, withdrawn_at \
        FROM authority ORDER BY published_at, id";
    INSERT_AUTHORITY = "INSERT INTO authority (id, kind, certificate, public_key, not_before, not_after, published_at, active_from, activated_at) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    ACTIVATE_AUTHORITY = "UPDATE authority SET activated_at = ?2 WHERE id = ?1 AND activated_at IS NULL AND retired_at IS NULL";
    RETIRE_AUTHORITY = "UPDATE authority SET retired_at = ?2, withdraw_at = ?3 WHERE id = ?1 AND retired_at IS NULL";
    WITHDRAW_AUTHORITY = "UPDATE authority SET withdrawn_at = ?2 WHERE id = ?1 AND withdrawn_at IS NULL";

    NODES = "SELECT name, labels, joined_at, last_seen, current_key, pending_key, pending_since, stale_attempts, stale_last_at, stale_last_from FROM node ORDER BY name";
    NODE = "SELECT name, labels, joined_at, last_seen, current_key, pending_key, pending_since, stale_attempts, stale_last_at, stale_last_from FROM node WHERE name = ?1";
    NODE_OF_KEY = "SELECT name FROM node WHERE current_key = ?1 OR pending_key = ?1";
    COUNT_NODES = "SELECT count(*) FROM node";
    INSERT_NODE = "INSERT INTO node (name, labels, joined_at, last_seen, current_key) VALUES (?1, ?2, ?3, ?4, ?5)";
    DELETE_NODE = "DELETE FROM node WHERE name = ?1";
    SEEN = "UPDATE node SET last_seen = ?2 WHERE name = ?1 AND last_seen < ?2";
    SET_PENDING = "UPDATE node SET pending_key = ?2, pending_since = ?3 WHERE name = ?1";
    PROMOTE = "UPDATE node SET current_key = pending_key, pending_key = NULL, pending_since = NULL WHERE name = ?1 AND pending_key = ?2";
    STALE = "UPDATE node SET stale_attempts = stale_attempts + ?2, stale_last_at = ?3, stale_last_from = ?4 WHERE name = ?1";
    RETIRED_KEY = "SELECT node, retired_at FROM node_retired_key WHERE key = ?1";
    INSERT_RETIRED_KEY = "INSERT OR IGNORE INTO node_retired_key (key, node, retired_at) VALUES (?1, ?2, ?3)";
    TRIM_RETIRED_KEYS = "DELETE FROM node_retired_key WHERE node = ?1 AND key NOT IN \
        (SELECT key FROM node_retired_key WHERE node = ?1 ORDER BY retired_at DESC, key LIMIT ?2)";

    OPEN_INVITATIONS = "SELECT id, node, labels, replaces, created_at, created_by, expires_at, bound_key, bound_at, bound_from, refusals, closed_at \
        FROM invitation WHERE closed_at IS NULL ORDER BY node";
    OPEN_INVITATION = "SELECT id, node, labels, replaces, created_at, created_by, expires_at, bound_key, bound_at, bound_from, refusals, closed_at \
        FROM invitation WHERE node = ?1 AND closed_at IS NULL";
    INVITATION_BY_SECRET = "SELECT id, node, labels, replaces, created_at, created_by, expires_at, bound_key, bound_at, bound_from, refusals, closed_at \
        FROM invitation WHERE secret_hash = ?1";
    COUNT_OPEN_INVITATIONS = "SELECT count(*) FROM invitation WHERE closed_at IS NULL AND expires_at > ?1";
    INSERT_INVITATION = "INSERT INTO invitation (id, secret_hash, node, labels, replaces, created_at, created_by, expires_at) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    /// The one statement that decides who redeems an invitation (T-01).
    BIND_INVITATION = "UPDATE invitation SET bound_key = ?2, bound_at = coalesce(bound_at, ?3), bound_from = coalesce(bound_from, ?4) \
        WHERE secret_hash = ?1 AND closed_at IS NULL AND expires_at > ?3 AND (bound_key IS NULL OR bound_key = ?2)";
    REFUSED_INVITATION = "UPDATE invitation SET refusals = refusals + 1 WHERE id = ?1";
    CLOSE_INVITATION = "UPDATE invitation SET closed_at = ?2 WHERE node = ?1 AND closed_at IS NULL RETURNING id";
    PRUNE_INVITATIONS = "DELETE FROM invitation WHERE expires_at < ?1 RETURNING node, closed_at IS NULL";

    ISSUERS = "SELECT name, url, audiences, algorithms, roles_claim, roots, keys_from_file, jwks, keys_at, created_at, updated_at FROM issuer ORDER BY name";
    ISSUER = "SELECT name, url, audiences, algorithms, roles_claim, roots, keys_from_file, jwks, keys_at, created_at, updated_at FROM issuer WHERE name = ?1";
    INSERT_ISSUER = "INSERT INTO issuer (name, url, audiences, algorithms, roles_claim, roots, keys_from_file, jwks, keys_at, created_at, updated_at) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    SET_ISSUER_KEYS = "UPDATE issuer SET jwks = ?2, keys_at = ?3, updated_at = ?4 WHERE name = ?1";
    DELETE_ISSUER = "DELETE FROM issuer WHERE name = ?1";

    SERVICES = "SELECT id, path, selectors, placements, x509_ttl_s, jwt_ttl_s, dns_names, hint, edge_scopes, edge_issuers, version, created_at, updated_at FROM service ORDER BY path";
    SERVICE_BY_PATH = "SELECT id, path, selectors, placements, x509_ttl_s, jwt_ttl_s, dns_names, hint, edge_scopes, edge_issuers, version, created_at, updated_at FROM service WHERE path = ?1";
    SERVICES_BY_HINT = "SELECT id, path, selectors, placements, x509_ttl_s, jwt_ttl_s, dns_names, hint, edge_scopes, edge_issuers, version, created_at, updated_at FROM service \
        WHERE hint = ?1 AND hint <> ''";
    COUNT_SERVICES = "SELECT count(*) FROM service";
    INSERT_SERVICE = "INSERT INTO service (id, path, selectors, placements, x509_ttl_s, jwt_ttl_s, dns_names, hint, edge_scopes, edge_issuers, version, created_at, updated_at) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    UPDATE_SERVICE = "UPDATE service SET selectors = ?2, placements = ?3, x509_ttl_s = ?4, jwt_ttl_s = ?5, dns_names = ?6, hint = ?7, edge_scopes = ?8, edge_issuers = ?9, \
        version = ?10, updated_at = ?11 WHERE id = ?1";
    DELETE_SERVICE = "DELETE FROM service WHERE id = ?1";

    DELEGATIONS = "SELECT key_id, node, statement, services, issued_at, expires_at FROM delegation ORDER BY key_id";
    INSERT_DELEGATION = "INSERT INTO delegation (key_id, node, statement, services, issued_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    DELETE_DELEGATION = "DELETE FROM delegation WHERE key_id = ?1";
    MINT_LOG = "SELECT node, log, seq, hash, collected_at FROM mint_log WHERE node = ?1";
    PUT_MINT_LOG = "INSERT INTO mint_log (node, log, seq, hash, collected_at) VALUES (?1, ?2, ?3, ?4, ?5) \
        ON CONFLICT (node) DO UPDATE SET log = ?2, seq = ?3, hash = ?4, collected_at = ?5";
}
