//! What stands in the tables, decoded: a column of another type or with a value we never write is an error that names it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bonafide_ca_api::{Labels, MintChain, NodeName, Placement, Selector};
use bonafide_verifier::{
    clock::Timestamp,
    jwt::{
        Algorithm,
        user_issuers::{IssuerKeys, UserIssuerSettings},
    },
    spiffe::{SpiffeId, TrustDomain},
    user::IssuerName,
};
use rusqlite::{
    Connection, OptionalExtension, Params, Row,
    types::{FromSql, FromSqlResult, ValueRef},
};

use super::{error::TxError, readers::Reader, statements as sql};
use crate::{
    audit::Head,
    authority::{Authority, AuthorityKind},
    registry::{
        Bound, Delegated, Edge, HeldKeys, Invitation, Issuer, KeyHash, KeySource, MintLog, Node, PendingKey,
        RetiredKey, Service, StaleAttempts,
    },
};

/// The one row about the whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct TrustDomainRow {
    pub(crate) name: TrustDomain,
    pub(crate) root_hash: [u8; 32],
    pub(crate) created_at: Timestamp,
    pub(crate) epoch: Arc<str>,
    pub(crate) version: u64,
    pub(crate) bundle_sequence: u64,
    pub(crate) highest_time: Timestamp,
    pub(crate) audit_chain: Arc<str>,
}

/// A record as it stands in the table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct RecordRow {
    pub(crate) seq: u64,
    pub(crate) at: Timestamp,
    pub(crate) kind: String,
    pub(crate) body: String,
}

/// The signed end of a group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct HeadRow {
    pub(crate) seq: u64,
    pub(crate) at: Timestamp,
    pub(crate) hash: [u8; 32],
    pub(crate) authority: String,
    pub(crate) signature: Vec<u8>,
}

/// Everything that the registry and the authorities keep in memory.
#[derive(Debug)]
pub(crate) struct Everything {
    pub(crate) trust_domain: TrustDomainRow,
    pub(crate) nodes: Vec<Node>,
    pub(crate) invitations: Vec<Invitation>,
    pub(crate) services: Vec<Service>,
    pub(crate) authorities: Vec<Authority>,
    pub(crate) delegations: Vec<Delegated>,
    pub(crate) issuers: Vec<Issuer>,
}

impl Reader<'_> {
    /// What is kept in memory.
    #[cfg(test)]
    pub(crate) fn everything(&self) -> Result<Everything, TxError> {
        everything(self.connection)
    }

    /// The row about the whole.
    pub(crate) fn trust_domain(&self) -> Result<TrustDomainRow, TxError> {
        trust_domain(self.connection)
    }

    /// All authorities there ever were.
    pub(crate) fn authorities(&self) -> Result<Vec<Authority>, TxError> {
        authorities(self.connection)
    }

    /// Whose older key it is.
    pub(crate) fn retired_key(&self, key: &KeyHash) -> Result<Option<RetiredKey>, TxError> {
        retired_key(self.connection, key)
    }

    /// Records after `seq`, in their order, with their stored hashes.
    pub(crate) fn records_after(
        &self,
        chain: &str,
        seq: u64,
        count: u32,
    ) -> Result<Vec<(RecordRow, [u8; 32])>, TxError> {
        all(self.connection, sql::RECORDS_UPWARDS, (chain, signed(seq), count), "audit_record", |columns| {
            Ok((record(columns)?, columns.bytes32("hash")?))
        })
    }

    /// Records before `seq`, the newest first.
    pub(crate) fn records_before(&self, chain: &str, seq: u64, count: u32) -> Result<Vec<RecordRow>, TxError> {
        all(self.connection, sql::RECORDS_DOWNWARDS, (chain, signed(seq), count), "audit_record", record)
    }

    /// The heads in `(from, to]`, in their order.
    pub(crate) fn heads_between(&self, chain: &str, from: u64, to: u64) -> Result<Vec<HeadRow>, TxError> {
        all(self.connection, sql::HEADS_UPWARDS, (chain, signed(from), signed(to)), "audit_head", |columns| {
            Ok(HeadRow {
                seq: columns.unsigned("seq")?,
                at: columns.time("at")?,
                hash: columns.bytes32("hash")?,
                authority: columns.get("authority")?,
                signature: columns.get("signature")?,
            })
        })
    }

    /// A head after `seq`, if there is one.
    pub(crate) fn head_after(&self, chain: &str, seq: u64) -> Result<Option<u64>, TxError> {
        let mut found = all(self.connection, sql::HEADS_AFTER, (chain, signed(seq)), "audit_head", |columns| {
            columns.unsigned("seq")
        })?;
        Ok(found.pop())
    }

    /// The name of a chain that is not ours, if there is one.
    pub(crate) fn other_chain(&self, chain: &str) -> Result<Option<String>, TxError> {
        let mut found =
            all(self.connection, sql::OTHER_CHAIN, [chain], "audit_record", |columns| columns.get("chain"))?;
        Ok(found.pop())
    }
}

pub(super) fn everything(connection: &Connection) -> Result<Everything, TxError> {
    Ok(Everything {
        trust_domain: trust_domain(connection)?,
        nodes: all(connection, sql::NODES, [], "node", node)?,
        invitations: all(connection, sql::OPEN_INVITATIONS, [], "invitation", invitation)?,
        services: {
            let trust_domain = trust_domain(connection)?.name;
            all(connection, sql::SERVICES, [], "service", |columns| service(columns, &trust_domain))?
        },
        authorities: authorities(connection)?,
        delegations: all(connection, sql::DELEGATIONS, [], "delegation", delegation)?,
        issuers: issuers(connection)?,
    })
}

pub(super) fn trust_domain(connection: &Connection) -> Result<TrustDomainRow, TxError> {
    let found = one(connection, sql::TRUST_DOMAIN, [], "trust_domain", |columns| {
        Ok(TrustDomainRow {
            name: columns.parsed("name", |text| TrustDomain::parse(text).map_err(|error| error.to_string()))?,
            root_hash: columns.bytes32("root_hash")?,
            created_at: columns.time("created_at")?,
            epoch: columns.get::<String>("epoch")?.into(),
            version: columns.unsigned("version")?,
            bundle_sequence: columns.unsigned("bundle_sequence")?,
            highest_time: columns.time("highest_time")?,
            audit_chain: columns.get::<String>("audit_chain")?.into(),
        })
    })?;
    found.ok_or_else(|| TxError::Row {
        table: "trust_domain",
        row: "1".to_owned(),
        column: "singleton",
        problem: "the row is missing".to_owned(),
    })
}

pub(super) fn last_record(connection: &Connection, origin: &Head) -> Result<Head, TxError> {
    let found = one(connection, sql::LAST_RECORD, [&*origin.chain], "audit_record", |columns| {
        Ok(Head { chain: origin.chain.clone(), seq: columns.unsigned("seq")?, hash: columns.bytes32("hash")? })
    })?;
    Ok(found.unwrap_or_else(|| origin.clone()))
}

pub(super) fn record_hash(connection: &Connection, chain: &str, seq: u64) -> Result<Option<[u8; 32]>, TxError> {
    one(connection, sql::RECORD_HASH, (chain, signed(seq)), "audit_record", |columns| columns.bytes32("hash"))
}

pub(super) fn authorities(connection: &Connection) -> Result<Vec<Authority>, TxError> {
    all(connection, sql::AUTHORITIES, [], "authority", |columns| {
        Ok(Authority {
            id: columns.get::<String>("id")?.into(),
            kind: columns.parsed("kind", |text| AuthorityKind::parse(text).ok_or_else(|| "unknown".to_owned()))?,
            certificate: columns.get::<Option<Vec<u8>>>("certificate")?.map(Into::into),
            public_key: columns.get::<Vec<u8>>("public_key")?.into(),
            not_before: columns.time("not_before")?,
            not_after: columns.time("not_after")?,
            published_at: columns.time("published_at")?,
            active_from: columns.time("active_from")?,
            activated_at: columns.maybe_time("activated_at")?,
            retired_at: columns.maybe_time("retired_at")?,
            withdraw_at: columns.maybe_time("withdraw_at")?,
            withdrawn_at: columns.maybe_time("withdrawn_at")?,
        })
    })
}

pub(super) fn retired_key(connection: &Connection, key: &KeyHash) -> Result<Option<RetiredKey>, TxError> {
    one(connection, sql::RETIRED_KEY, [key.as_slice()], "node_retired_key", |columns| {
        Ok(RetiredKey { node: columns.name("node")?, retired_at: columns.time("retired_at")? })
    })
}

pub(super) fn node(columns: &Columns<'_>) -> Result<Node, TxError> {
    let mut node = Node::new(
        columns.name("name")?,
        columns.labels()?,
        columns.time("joined_at")?,
        columns.time("last_seen")?,
        columns.bytes32("current_key")?,
    );
    node.pending = match (columns.maybe_bytes32("pending_key")?, columns.maybe_time("pending_since")?) {
        (Some(key), Some(since)) => Some(PendingKey { key, since }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err(columns.wrong("pending_since", "a pending key without its time, or the other way round"));
        }
    };
    node.stale = StaleAttempts {
        count: columns.unsigned("stale_attempts")?,
        last_at: columns.maybe_time("stale_last_at")?,
        last_from: columns.get("stale_last_from")?,
    };
    Ok(node)
}

pub(super) fn invitation(columns: &Columns<'_>) -> Result<Invitation, TxError> {
    let bound = match (
        columns.maybe_bytes32("bound_key")?,
        columns.maybe_time("bound_at")?,
        columns.get::<Option<String>>("bound_from")?,
    ) {
        (Some(key), Some(at), Some(from)) => Some(Bound { key, at, from }),
        (None, None, None) => None,
        _ => return Err(columns.wrong("bound_key", "bound in part")),
    };
    Ok(Invitation {
        id: columns.get("id")?,
        node: columns.name("node")?,
        labels: columns.labels()?,
        replaces: columns.get("replaces")?,
        created_at: columns.time("created_at")?,
        created_by: columns.get("created_by")?,
        expires_at: columns.time("expires_at")?,
        bound,
        refusals: columns.unsigned("refusals")?,
        closed_at: columns.maybe_time("closed_at")?,
    })
}

pub(super) fn service(columns: &Columns<'_>, trust_domain: &TrustDomain) -> Result<Service, TxError> {
    Ok(Service {
        id: columns.get::<String>("id")?.into(),
        spiffe_id: columns.parsed("path", |path| {
            let id = SpiffeId::new(trust_domain, path).map_err(|error| error.to_string())?;
            if id.is_reserved() || id.path().is_empty() { Err("reserved or empty".to_owned()) } else { Ok(id) }
        })?,
        selectors: columns.list("selectors", |text| Selector::parse(text).map_err(|error| error.to_string()))?,
        placements: columns.list("placements", |text| Placement::parse(text).map_err(|error| error.to_string()))?,
        x509_ttl: Duration::from_secs(columns.unsigned("x509_ttl_s")?),
        jwt_ttl: Duration::from_secs(columns.unsigned("jwt_ttl_s")?),
        dns_names: columns.list("dns_names", |text| Ok(text.to_owned()))?,
        hint: columns.get("hint")?,
        edge: {
            let text = |text: &str| Ok(text.to_owned());
            let edge =
                Edge { scopes: columns.list("edge_scopes", text)?, issuers: columns.list("edge_issuers", text)? };
            (!edge.scopes.is_empty()).then_some(edge)
        },
        version: columns.unsigned("version")?,
        created_at: columns.time("created_at")?,
        updated_at: columns.time("updated_at")?,
    })
}

pub(super) fn delegation(columns: &Columns<'_>) -> Result<Delegated, TxError> {
    Ok(Delegated {
        key_id: columns.get::<String>("key_id")?.into(),
        node: columns.parsed("node", |text| NodeName::parse(text).map_err(|error| error.to_string()))?,
        statement: columns.get::<String>("statement")?.into(),
        services: columns.list("services", |text| Ok(text.into()))?,
        issued_at: columns.time("issued_at")?,
        expires_at: columns.time("expires_at")?,
    })
}

pub(super) fn mint_log(columns: &Columns<'_>) -> Result<MintLog, TxError> {
    Ok(MintLog {
        node: columns.parsed("node", |text| NodeName::parse(text).map_err(|error| error.to_string()))?,
        place: MintChain { log: columns.get("log")?, seq: columns.unsigned("seq")?, hash: columns.bytes32("hash")? },
        collected_at: columns.time("collected_at")?,
    })
}

pub(super) fn issuers(connection: &Connection) -> Result<Vec<Issuer>, TxError> {
    all(connection, sql::ISSUERS, [], "issuer", issuer)
}

pub(super) fn issuer(columns: &Columns<'_>) -> Result<Issuer, TxError> {
    let parse_algorithm = |name: &str| Algorithm::from_name(name).ok_or_else(|| "unknown".to_owned());
    let keys = match (columns.get::<Option<String>>("jwks")?, columns.maybe_time("keys_at")?) {
        (Some(jwks), Some(at)) => {
            let keys = IssuerKeys::parse_jwks(jwks.as_bytes());
            Some(HeldKeys { keys: keys.map_err(|error| columns.wrong("jwks", &error.to_string()))?, at })
        }
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err(columns.wrong("keys_at", "keys without their time, or the other way round"));
        }
    };
    Ok(Issuer {
        settings: UserIssuerSettings {
            name: columns.parsed("name", |text| IssuerName::parse(text).map_err(|error| error.to_string()))?,
            url: columns.get("url")?,
            audiences: columns.list("audiences", |text| Ok(text.to_owned()))?,
            algorithms: columns.list("algorithms", parse_algorithm)?,
            roles_claim: columns.get("roles_claim")?,
        },
        roots: columns.get::<Option<String>>("roots")?.map(Into::into),
        source: if columns.get("keys_from_file")? { KeySource::File } else { KeySource::Fetched },
        keys,
        created_at: columns.time("created_at")?,
        updated_at: columns.time("updated_at")?,
    })
}

fn record(columns: &Columns<'_>) -> Result<RecordRow, TxError> {
    Ok(RecordRow {
        seq: columns.unsigned("seq")?,
        at: columns.time("at")?,
        kind: columns.get("kind")?,
        body: columns.get("body")?,
    })
}

/// Labels as they stand in a column.
pub(super) fn labels_json(labels: &Labels) -> String {
    let labels: BTreeMap<&str, &str> = labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    serde_json::json!(labels).to_string()
}

/// A list as it stands in a column.
pub(super) fn list_json<T: ToString>(list: &[T]) -> String {
    serde_json::json!(list.iter().map(ToString::to_string).collect::<Vec<_>>()).to_string()
}

/// Labels from a column.
pub(crate) fn labels_from_json(text: &str) -> Result<Labels, String> {
    let pairs: BTreeMap<String, String> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Labels::from_pairs(pairs).map_err(|error| error.to_string())
}

/// A list from a column.
pub(crate) fn list_from_json<T>(text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let items: Vec<String> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    items.iter().map(|item| parse(item)).collect()
}

/// Property of the text columns: what decodes is written back as an equal value.
pub(crate) fn check_columns(text: &str) {
    if let Ok(labels) = labels_from_json(text) {
        assert_eq!(labels_from_json(&labels_json(&labels)), Ok(labels));
    }
    let selector = |text: &str| Selector::parse(text).map_err(|error| error.to_string());
    if let Ok(selectors) = list_from_json(text, selector) {
        assert_eq!(list_from_json(&list_json(&selectors), selector), Ok(selectors));
    }
    let placement = |text: &str| Placement::parse(text).map_err(|error| error.to_string());
    if let Ok(placements) = list_from_json(text, placement) {
        assert_eq!(list_from_json(&list_json(&placements), placement), Ok(placements));
    }
}

/// Every row that a statement finds.
pub(super) fn all<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    table: &'static str,
    decode: impl Fn(&Columns<'_>) -> Result<T, TxError>,
) -> Result<Vec<T>, TxError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(decode(&Columns { row, table })?);
    }
    Ok(found)
}

/// The row that a statement finds, if any.
pub(super) fn one<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    table: &'static str,
    decode: impl Fn(&Columns<'_>) -> Result<T, TxError>,
) -> Result<Option<T>, TxError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(|row| decode(&Columns { row, table })).transpose()
}

/// The number that a statement finds.
pub(super) fn number(connection: &Connection, sql: &str, params: impl Params) -> Result<u64, TxError> {
    let found: Option<i64> = connection.prepare_cached(sql)?.query_row(params, |row| row.get(0)).optional()?;
    Ok(found.and_then(|number| u64::try_from(number).ok()).unwrap_or(0))
}

/// As SQLite stores it; what would not fit is far beyond any counter.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A row whose columns are read by name, with errors that name them.
pub(super) struct Columns<'a> {
    row: &'a Row<'a>,
    table: &'static str,
}

impl Columns<'_> {
    pub(super) fn get<T: FromSql>(&self, column: &'static str) -> Result<T, TxError> {
        self.row.get(column).map_err(|error| self.wrong(column, &error.to_string()))
    }

    /// By its position, for a column without a name.
    pub(super) fn at<T: FromSql>(&self, column: usize) -> Result<T, TxError> {
        Ok(self.row.get(column)?)
    }

    fn parsed<T>(&self, column: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, TxError> {
        parse(&self.get::<String>(column)?).map_err(|problem| self.wrong(column, &problem))
    }

    fn name(&self, column: &'static str) -> Result<NodeName, TxError> {
        self.parsed(column, |text| NodeName::parse(text).map_err(|error| error.to_string()))
    }

    fn labels(&self) -> Result<Labels, TxError> {
        self.parsed("labels", labels_from_json)
    }

    fn list<T>(&self, column: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, TxError> {
        self.parsed(column, |text| list_from_json(text, parse))
    }

    fn unsigned(&self, column: &'static str) -> Result<u64, TxError> {
        u64::try_from(self.get::<i64>(column)?).map_err(|_| self.wrong(column, "a negative number"))
    }

    fn time(&self, column: &'static str) -> Result<Timestamp, TxError> {
        match self.unsigned(column)? {
            millis if millis <= LATEST => Ok(Timestamp::from_unix_millis(signed(millis))),
            millis => Err(self.wrong(column, &format!("{millis} is no time"))),
        }
    }

    fn maybe_time(&self, column: &'static str) -> Result<Option<Timestamp>, TxError> {
        match self.get::<Option<i64>>(column)? {
            None => Ok(None),
            Some(_) => self.time(column).map(Some),
        }
    }

    fn bytes32(&self, column: &'static str) -> Result<[u8; 32], TxError> {
        self.get::<Bytes32>(column).map(|bytes| bytes.0)
    }

    fn maybe_bytes32(&self, column: &'static str) -> Result<Option<[u8; 32]>, TxError> {
        self.get::<Option<Bytes32>>(column).map(|bytes| bytes.map(|bytes| bytes.0))
    }

    fn wrong(&self, column: &'static str, problem: &str) -> TxError {
        let row = match self.row.get_ref(0) {
            Ok(ValueRef::Text(text)) => String::from_utf8_lossy(text).chars().take(80).collect::<String>(),
            Ok(ValueRef::Integer(number)) => number.to_string(),
            _ => "?".to_owned(),
        };
        let row = row.escape_debug().to_string();
        TxError::Row { table: self.table, row, column, problem: problem.escape_debug().to_string() }
    }
}

struct Bytes32([u8; 32]);

impl FromSql for Bytes32 {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        <[u8; 32]>::column_result(value).map(Self)
    }
}

/// 9999-12-31T23:59:59.999Z, where RFC 3339 and X.509 end.
const LATEST: u64 = 253_402_300_799_999;
