-- The CA's database. Times are milliseconds since the Unix epoch. A row only ever grows new columns; what a
-- node or a verifier relies on (epoch, version, bundle sequence, audit chain) never goes back.

-- One row: what this database belongs to, and the counters that only grow.
CREATE TABLE trust_domain (
    singleton        INTEGER PRIMARY KEY CHECK (singleton = 1),
    name             TEXT    NOT NULL,
    root_hash        BLOB    NOT NULL CHECK (length(root_hash) = 32), -- SHA-256 of the first root's certificate
    created_at       INTEGER NOT NULL,
    epoch            TEXT    NOT NULL, -- UUID; new at creation and at a restore
    version          INTEGER NOT NULL CHECK (version >= 0), -- taken in each transaction that changes what a node may see
    bundle_sequence  INTEGER NOT NULL CHECK (bundle_sequence >= 1),
    highest_time     INTEGER NOT NULL, -- the latest time at which this CA acted
    audit_chain      TEXT    NOT NULL  -- the chain that the process on this database writes
) STRICT;

-- Keys that sign. Private keys are files beside the database, named by `id`; none is in here. A row stays for
-- good: the heads of the audit chain are verified against it.
CREATE TABLE authority (
    id            TEXT    PRIMARY KEY, -- issuing, root: hex of the subject key identifier; jwt, token: the `kid`
    kind          TEXT    NOT NULL CHECK (kind IN ('root', 'issuing', 'jwt', 'token')),
    certificate   BLOB    CHECK (certificate IS NOT NULL OR kind IN ('jwt', 'token')), -- DER; NULL for jwt, token
    public_key    BLOB    NOT NULL,    -- SubjectPublicKeyInfo DER
    not_before    INTEGER NOT NULL,
    not_after     INTEGER NOT NULL,    -- jwt, token: no document outlives it
    published_at  INTEGER NOT NULL,    -- prepared; root and jwt: in the bundle since
    active_from   INTEGER NOT NULL,    -- planned first use
    activated_at  INTEGER,             -- signs since
    retired_at    INTEGER,             -- stopped signing
    withdraw_at   INTEGER,             -- planned: the last document it signed has expired
    withdrawn_at  INTEGER              -- out of the bundle
) STRICT;

CREATE TABLE node (
    name              TEXT    PRIMARY KEY,
    labels            TEXT    NOT NULL,  -- JSON object of strings
    joined_at         INTEGER NOT NULL,
    last_seen         INTEGER NOT NULL,  -- written at join, recovery, renewal and at the ends of a stream
    current_key       BLOB    NOT NULL CHECK (length(current_key) = 32), -- SHA-256 of SubjectPublicKeyInfo
    pending_key       BLOB    CHECK (length(pending_key) = 32), -- certified, not yet used
    pending_since     INTEGER,
    stale_attempts    INTEGER NOT NULL DEFAULT 0, -- refusals of an older key: a copy of its disk is in use
    stale_last_at     INTEGER,
    stale_last_from   TEXT
) STRICT;
CREATE UNIQUE INDEX node_current_key ON node (current_key);
CREATE UNIQUE INDEX node_pending_key ON node (pending_key) WHERE pending_key IS NOT NULL;

-- Older keys of a node, so that a stale copy is told from a stranger. Bounded per node.
CREATE TABLE node_retired_key (
    key         BLOB    PRIMARY KEY CHECK (length(key) = 32),
    node        TEXT    NOT NULL REFERENCES node (name) ON DELETE CASCADE,
    retired_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX node_retired_key_node ON node_retired_key (node, retired_at);

CREATE TABLE invitation (
    id          TEXT    PRIMARY KEY, -- UUID, for records; the secret is only here as its hash
    secret_hash BLOB    NOT NULL UNIQUE CHECK (length(secret_hash) = 32),
    node        TEXT    NOT NULL,
    labels      TEXT    NOT NULL,
    replaces    INTEGER NOT NULL CHECK (replaces IN (0, 1)),
    created_at  INTEGER NOT NULL,
    created_by  TEXT    NOT NULL,
    expires_at  INTEGER NOT NULL,
    bound_key   BLOB    CHECK (length(bound_key) = 32), -- the first key that redeemed it
    bound_at    INTEGER,
    bound_from  TEXT,
    refusals    INTEGER NOT NULL DEFAULT 0, -- other keys that tried
    closed_at   INTEGER  -- the node synced once or was removed, or a newer invitation took its place
) STRICT;
CREATE UNIQUE INDEX invitation_open ON invitation (node) WHERE closed_at IS NULL;
CREATE INDEX invitation_expires ON invitation (expires_at);

CREATE TABLE service (
    id          TEXT    PRIMARY KEY, -- UUID, the opaque name in tombstones
    path        TEXT    NOT NULL UNIQUE, -- '/photo'
    selectors   TEXT    NOT NULL,    -- JSON array of strings, sorted
    placements  TEXT    NOT NULL,    -- JSON array of strings, sorted: NODE, LABEL=VALUE, any
    x509_ttl_s  INTEGER NOT NULL CHECK (x509_ttl_s > 0),
    jwt_ttl_s   INTEGER NOT NULL CHECK (jwt_ttl_s > 0),
    dns_names   TEXT    NOT NULL,    -- JSON array of strings
    hint        TEXT    NOT NULL,
    edge_scopes TEXT    NOT NULL,    -- JSON array of strings, sorted; an edge has at least one
    edge_issuers TEXT   NOT NULL,    -- JSON array of strings, sorted; names of issuers of users
    version     INTEGER NOT NULL,    -- of its last change
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX service_hint ON service (hint) WHERE hint <> '';

-- Delegations that hold: statements by which keys of agents may sign transaction tokens.
CREATE TABLE delegation (
    key_id      TEXT    PRIMARY KEY, -- the `kid` of the agent's key
    node        TEXT    NOT NULL REFERENCES node (name) ON DELETE CASCADE,
    statement   TEXT    NOT NULL,    -- JWS compact serialization
    services    TEXT    NOT NULL,    -- JSON array of strings: ids of the services that it names
    issued_at   INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX delegation_node ON delegation (node);

-- How far the log of what a node minted has been followed.
CREATE TABLE mint_log (
    node          TEXT    PRIMARY KEY REFERENCES node (name) ON DELETE CASCADE,
    log           TEXT    NOT NULL, -- UUID
    seq           INTEGER NOT NULL CHECK (seq >= 0),
    hash          BLOB    NOT NULL CHECK (length(hash) = 32), -- of the record `seq`
    collected_at  INTEGER NOT NULL
) STRICT;

-- Issuers of users: OpenID Connect providers whose tokens about users are believed, with the keys that they had when last asked.
CREATE TABLE issuer (
    name            TEXT    PRIMARY KEY,
    url             TEXT    NOT NULL UNIQUE,
    audiences       TEXT    NOT NULL, -- JSON array of strings
    algorithms      TEXT    NOT NULL, -- JSON array of strings, the preferred one first
    roles_claim     TEXT,
    roots           TEXT,             -- PEM; NULL: those of the system
    keys_from_file  INTEGER NOT NULL CHECK (keys_from_file IN (0, 1)), -- given by an administrator, never fetched
    jwks            TEXT,             -- public keys alone
    keys_at         INTEGER,          -- the issuer's keys at that time
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    CHECK ((jwks IS NULL) = (keys_at IS NULL))
) STRICT;

-- The audit chain: hash = SHA-256(previous hash || seq || at || kind || body, each length-prefixed); before the
-- first record stands a hash over chain, trust domain and root. One chain per CA process; every group of records
-- that was written together ends in a signed head.
CREATE TABLE audit_record (
    chain  TEXT    NOT NULL,
    seq    INTEGER NOT NULL CHECK (seq >= 1),
    at     INTEGER NOT NULL,
    kind   TEXT    NOT NULL,
    body   TEXT    NOT NULL, -- JSON
    hash   BLOB    NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (chain, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit_head (
    chain      TEXT    NOT NULL,
    seq        INTEGER NOT NULL, -- the last record of the group
    at         INTEGER NOT NULL,
    hash       BLOB    NOT NULL CHECK (length(hash) = 32),
    authority  TEXT    NOT NULL REFERENCES authority (id), -- the issuing authority that signed
    signature  BLOB    NOT NULL, -- ECDSA P-256 SHA-256 over 'bonafide audit head' || chain || seq || at || hash, length-prefixed
    PRIMARY KEY (chain, seq)
) STRICT, WITHOUT ROWID;
