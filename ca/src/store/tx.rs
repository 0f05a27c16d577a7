//! What a change can do inside its transaction. All of it is undone together, records included.

use std::sync::Arc;

use bonafide_ca_api::NodeName;
use bonafide_verifier::{clock::Timestamp, spiffe::TrustDomain};
use rusqlite::{Connection, Params};

use super::{
    error::TxError,
    rows::{self, all, labels_json, list_json, number, one, signed},
    statements as sql,
};
use crate::{
    audit::{Head, HeadSigner, Record},
    authority::Authority,
    registry::{Delegated, Invitation, Issuer, KeyHash, KeySource, MintLog, Node, PendingKey, RetiredKey, Service},
};

/// Runs on the writer's thread after the commit and before the answer.
pub(super) type Hook = Box<dyn FnOnce() + Send>;

/// A transaction of the writer.
pub(crate) struct Tx<'a> {
    connection: &'a Connection,
    at: Timestamp,
    head: &'a mut Head,
    hooks: &'a mut Vec<Hook>,
    scratch: &'a mut Vec<u8>,
}

impl<'a> Tx<'a> {
    pub(super) fn new(
        connection: &'a Connection,
        at: Timestamp,
        head: &'a mut Head,
        hooks: &'a mut Vec<Hook>,
        scratch: &'a mut Vec<u8>,
    ) -> Self {
        Self { connection, at, head, hooks, scratch }
    }

    /// When this transaction happens: the time of its records.
    pub(crate) fn at(&self) -> Timestamp {
        self.at
    }

    /// Appends a record to the audit chain.
    pub(crate) fn record(&mut self, record: &Record) -> Result<(), TxError> {
        self.append_all(std::slice::from_ref(record))
    }

    /// Runs `hook` once this transaction is durable, in the order of commits, before the caller has its answer.
    pub(crate) fn on_commit(&mut self, hook: impl FnOnce() + Send + 'static) {
        self.hooks.push(Box::new(hook));
    }

    pub(super) fn append_all(&mut self, records: &[Record]) -> Result<(), TxError> {
        let mut insert = self.connection.prepare_cached(sql::INSERT_RECORD)?;
        for record in records {
            let (kind, body) = (record.kind().as_str(), record.body());
            self.head.advance(self.at, kind, body, self.scratch);
            let head = &*self.head;
            insert.execute((
                &*head.chain,
                signed(head.seq),
                self.at.unix_millis(),
                kind,
                body,
                head.hash.as_slice(),
            ))?;
        }
        Ok(())
    }

    pub(super) fn head(&self) -> &Head {
        self.head
    }

    pub(super) fn sign_head(&mut self, signer: &HeadSigner) -> Result<(), TxError> {
        let signature = signer.sign(self.head, self.at).ok_or(TxError::Unsigned)?;
        let head = self.head.clone();
        let row = (
            &*head.chain,
            signed(head.seq),
            self.at.unix_millis(),
            head.hash.as_slice(),
            &*signer.authority,
            signature,
        );
        self.execute(sql::INSERT_HEAD, row).map(drop)
    }

    // The whole.

    pub(crate) fn insert_trust_domain(
        &mut self,
        name: &TrustDomain,
        root_hash: &[u8; 32],
        epoch: &str,
        chain: &str,
    ) -> Result<(), TxError> {
        self.execute(
            sql::INSERT_TRUST_DOMAIN,
            (name.as_str(), root_hash.as_slice(), self.at.unix_millis(), epoch, chain),
        )
        .map(drop)
    }

    /// Takes the next version: of a change that a node may see.
    pub(crate) fn next_version(&mut self) -> Result<u64, TxError> {
        number(self.connection, sql::NEXT_VERSION, [])
    }

    /// Takes the next sequence of the bundle: its content changes.
    pub(crate) fn next_bundle_sequence(&mut self) -> Result<u64, TxError> {
        number(self.connection, sql::NEXT_BUNDLE_SEQUENCE, [])
    }

    pub(crate) fn set_highest_time(&mut self, at: Timestamp) -> Result<(), TxError> {
        self.execute(sql::SET_HIGHEST_TIME, [at.unix_millis()]).map(drop)
    }

    pub(crate) fn set_epoch(&mut self, epoch: &str) -> Result<(), TxError> {
        self.execute(sql::SET_EPOCH, [epoch]).map(drop)
    }

    // Authorities.

    pub(crate) fn authorities(&self) -> Result<Vec<Authority>, TxError> {
        rows::authorities(self.connection)
    }

    pub(crate) fn insert_authority(&mut self, authority: &Authority) -> Result<(), TxError> {
        self.execute(
            sql::INSERT_AUTHORITY,
            (
                &*authority.id,
                authority.kind.as_str(),
                authority.certificate.as_deref(),
                &*authority.public_key,
                authority.not_before.unix_millis(),
                authority.not_after.unix_millis(),
                authority.published_at.unix_millis(),
                authority.active_from.unix_millis(),
                authority.activated_at.map(Timestamp::unix_millis),
            ),
        )
        .map(drop)
    }

    /// False if it was active or retired already.
    pub(crate) fn activate_authority(&mut self, id: &str, at: Timestamp) -> Result<bool, TxError> {
        Ok(self.execute(sql::ACTIVATE_AUTHORITY, (id, at.unix_millis()))? == 1)
    }

    /// False if it was retired already.
    pub(crate) fn retire_authority(
        &mut self,
        id: &str,
        at: Timestamp,
        withdraw_at: Timestamp,
    ) -> Result<bool, TxError> {
        Ok(self.execute(sql::RETIRE_AUTHORITY, (id, at.unix_millis(), withdraw_at.unix_millis()))? == 1)
    }

    /// False if it was withdrawn already.
    pub(crate) fn withdraw_authority(&mut self, id: &str, at: Timestamp) -> Result<bool, TxError> {
        Ok(self.execute(sql::WITHDRAW_AUTHORITY, (id, at.unix_millis()))? == 1)
    }

    // Nodes.

    pub(crate) fn node(&self, name: &NodeName) -> Result<Option<Node>, TxError> {
        one(self.connection, sql::NODE, [name.as_str()], "node", rows::node)
    }

    /// The node that has this key as its current or pending one.
    pub(crate) fn node_of_key(&self, key: &KeyHash) -> Result<Option<NodeName>, TxError> {
        one(self.connection, sql::NODE_OF_KEY, [key.as_slice()], "node", |columns| {
            NodeName::parse(&columns.get::<String>("name")?).map_err(|error| TxError::Row {
                table: "node",
                row: "?".to_owned(),
                column: "name",
                problem: error.to_string(),
            })
        })
    }

    pub(crate) fn retired_key(&self, key: &KeyHash) -> Result<Option<RetiredKey>, TxError> {
        rows::retired_key(self.connection, key)
    }

    pub(crate) fn count_nodes(&self) -> Result<u64, TxError> {
        number(self.connection, sql::COUNT_NODES, [])
    }

    pub(crate) fn insert_node(&mut self, node: &Node) -> Result<(), TxError> {
        self.execute(
            sql::INSERT_NODE,
            (
                node.name.as_str(),
                labels_json(&node.labels),
                node.joined_at.unix_millis(),
                node.last_seen().unix_millis(),
                node.current_key.as_slice(),
            ),
        )
        .map(drop)
    }

    /// Deletes the node with all its older keys; false if there was none.
    pub(crate) fn delete_node(&mut self, name: &NodeName) -> Result<bool, TxError> {
        Ok(self.execute(sql::DELETE_NODE, [name.as_str()])? == 1)
    }

    /// Never goes back.
    pub(crate) fn seen(&mut self, name: &NodeName, at: Timestamp) -> Result<(), TxError> {
        self.execute(sql::SEEN, (name.as_str(), at.unix_millis())).map(drop)
    }

    pub(crate) fn set_pending(&mut self, name: &NodeName, pending: Option<PendingKey>) -> Result<(), TxError> {
        let (key, since) = (
            pending.as_ref().map(|pending| pending.key.as_slice()),
            pending.as_ref().map(|pending| pending.since.unix_millis()),
        );
        self.execute(sql::SET_PENDING, (name.as_str(), key, since)).map(drop)
    }

    /// Makes the pending key the current one; false if it is not pending.
    pub(crate) fn promote(&mut self, name: &NodeName, key: &KeyHash) -> Result<bool, TxError> {
        Ok(self.execute(sql::PROMOTE, (name.as_str(), key.as_slice()))? == 1)
    }

    /// Remembers an older key of a node, and forgets its oldest ones beyond `bound`.
    pub(crate) fn retire_key(&mut self, name: &NodeName, key: &KeyHash, bound: u32) -> Result<(), TxError> {
        self.execute(sql::INSERT_RETIRED_KEY, (key.as_slice(), name.as_str(), self.at.unix_millis()))?;
        self.execute(sql::TRIM_RETIRED_KEYS, (name.as_str(), bound)).map(drop)
    }

    pub(crate) fn stale(&mut self, name: &NodeName, more: u64, from: &str) -> Result<(), TxError> {
        self.execute(sql::STALE, (name.as_str(), signed(more), self.at.unix_millis(), from)).map(drop)
    }

    // Invitations.

    pub(crate) fn open_invitation(&self, node: &NodeName) -> Result<Option<Invitation>, TxError> {
        one(self.connection, sql::OPEN_INVITATION, [node.as_str()], "invitation", rows::invitation)
    }

    pub(crate) fn invitation_by_secret(&self, secret_hash: &[u8; 32]) -> Result<Option<Invitation>, TxError> {
        one(self.connection, sql::INVITATION_BY_SECRET, [secret_hash.as_slice()], "invitation", rows::invitation)
    }

    /// Those that are open and not expired.
    pub(crate) fn count_open_invitations(&self) -> Result<u64, TxError> {
        number(self.connection, sql::COUNT_OPEN_INVITATIONS, [self.at.unix_millis()])
    }

    pub(crate) fn insert_invitation(&mut self, invitation: &Invitation, secret_hash: &[u8; 32]) -> Result<(), TxError> {
        self.execute(
            sql::INSERT_INVITATION,
            (
                &invitation.id,
                secret_hash.as_slice(),
                invitation.node.as_str(),
                labels_json(&invitation.labels),
                invitation.replaces,
                invitation.created_at.unix_millis(),
                &invitation.created_by,
                invitation.expires_at.unix_millis(),
            ),
        )
        .map(drop)
    }

    /// The one statement that decides who redeems an invitation: true for the first key, and for the same key again.
    pub(crate) fn bind_invitation(
        &mut self,
        secret_hash: &[u8; 32],
        key: &KeyHash,
        from: &str,
    ) -> Result<bool, TxError> {
        let at = self.at.unix_millis();
        Ok(self.execute(sql::BIND_INVITATION, (secret_hash.as_slice(), key.as_slice(), at, from))? == 1)
    }

    pub(crate) fn refused_invitation(&mut self, id: &str) -> Result<(), TxError> {
        self.execute(sql::REFUSED_INVITATION, [id]).map(drop)
    }

    /// Closes the open invitation of that name; its id, if there was one.
    pub(crate) fn close_invitation(&mut self, node: &NodeName) -> Result<Option<String>, TxError> {
        let at = self.at.unix_millis();
        one(self.connection, sql::CLOSE_INVITATION, (node.as_str(), at), "invitation", |columns| columns.get("id"))
    }

    /// Forgets invitations that expired before `before`; whose open ones were among them.
    pub(crate) fn prune_invitations(&mut self, before: Timestamp) -> Result<Vec<String>, TxError> {
        let pruned = all(self.connection, sql::PRUNE_INVITATIONS, [before.unix_millis()], "invitation", |columns| {
            Ok((columns.get::<String>("node")?, columns.at::<bool>(1)?))
        })?;
        Ok(pruned.into_iter().filter_map(|(node, open)| open.then_some(node)).collect())
    }

    // Services.

    pub(crate) fn service(&self, path: &str, trust_domain: &TrustDomain) -> Result<Option<Service>, TxError> {
        one(self.connection, sql::SERVICE_BY_PATH, [path], "service", |columns| rows::service(columns, trust_domain))
    }

    pub(crate) fn services_by_hint(&self, hint: &str, trust_domain: &TrustDomain) -> Result<Vec<Service>, TxError> {
        all(self.connection, sql::SERVICES_BY_HINT, [hint], "service", |columns| rows::service(columns, trust_domain))
    }

    pub(crate) fn count_services(&self) -> Result<u64, TxError> {
        number(self.connection, sql::COUNT_SERVICES, [])
    }

    pub(crate) fn insert_service(&mut self, service: &Service) -> Result<(), TxError> {
        self.execute(
            sql::INSERT_SERVICE,
            (
                &*service.id,
                service.path(),
                list_json(&service.selectors),
                list_json(&service.placements),
                signed(service.x509_ttl.as_secs()),
                signed(service.jwt_ttl.as_secs()),
                list_json(&service.dns_names),
                &service.hint,
                list_json(edge_scopes(service)),
                list_json(edge_issuers(service)),
                signed(service.version),
                service.created_at.unix_millis(),
                service.updated_at.unix_millis(),
            ),
        )
        .map(drop)
    }

    pub(crate) fn update_service(&mut self, service: &Service) -> Result<(), TxError> {
        self.execute(
            sql::UPDATE_SERVICE,
            (
                &*service.id,
                list_json(&service.selectors),
                list_json(&service.placements),
                signed(service.x509_ttl.as_secs()),
                signed(service.jwt_ttl.as_secs()),
                list_json(&service.dns_names),
                &service.hint,
                list_json(edge_scopes(service)),
                list_json(edge_issuers(service)),
                signed(service.version),
                service.updated_at.unix_millis(),
            ),
        )
        .map(drop)
    }

    pub(crate) fn delete_service(&mut self, id: &Arc<str>) -> Result<(), TxError> {
        self.execute(sql::DELETE_SERVICE, [&**id]).map(drop)
    }

    // Delegations and what was minted under them.

    pub(crate) fn delegations(&self) -> Result<Vec<Delegated>, TxError> {
        all(self.connection, sql::DELEGATIONS, [], "delegation", rows::delegation)
    }

    pub(crate) fn insert_delegation(&mut self, one: &Delegated) -> Result<(), TxError> {
        self.execute(
            sql::INSERT_DELEGATION,
            (
                &*one.key_id,
                one.node.as_str(),
                &*one.statement,
                list_json(&one.services),
                one.issued_at.unix_millis(),
                one.expires_at.unix_millis(),
            ),
        )
        .map(drop)
    }

    pub(crate) fn delete_delegation(&mut self, key_id: &str) -> Result<(), TxError> {
        self.execute(sql::DELETE_DELEGATION, [key_id]).map(drop)
    }

    pub(crate) fn mint_log(&self, node: &NodeName) -> Result<Option<MintLog>, TxError> {
        one(self.connection, sql::MINT_LOG, [node.as_str()], "mint_log", rows::mint_log)
    }

    pub(crate) fn put_mint_log(&mut self, log: &MintLog) -> Result<(), TxError> {
        let place = &log.place;
        let at = log.collected_at.unix_millis();
        self.execute(sql::PUT_MINT_LOG, (log.node.as_str(), &place.log, signed(place.seq), place.hash.as_slice(), at))
            .map(drop)
    }

    // Issuers of users.

    pub(crate) fn issuers(&self) -> Result<Vec<Issuer>, TxError> {
        rows::issuers(self.connection)
    }

    pub(crate) fn issuer(&self, name: &str) -> Result<Option<Issuer>, TxError> {
        one(self.connection, sql::ISSUER, [name], "issuer", rows::issuer)
    }

    pub(crate) fn insert_issuer(&mut self, issuer: &Issuer) -> Result<(), TxError> {
        let settings = &issuer.settings;
        self.execute(
            sql::INSERT_ISSUER,
            (
                settings.name.as_str(),
                &settings.url,
                list_json(&settings.audiences),
                list_json(&settings.algorithms),
                settings.roles_claim.as_deref(),
                issuer.roots.as_deref(),
                issuer.source == KeySource::File,
                issuer.keys.as_ref().map(|held| held.keys.to_jwks()),
                issuer.keys.as_ref().map(|held| held.at.unix_millis()),
                issuer.created_at.unix_millis(),
                issuer.updated_at.unix_millis(),
            ),
        )
        .map(drop)
    }

    pub(crate) fn set_issuer_keys(&mut self, issuer: &Issuer) -> Result<(), TxError> {
        self.execute(
            sql::SET_ISSUER_KEYS,
            (
                issuer.name().as_str(),
                issuer.keys.as_ref().map(|held| held.keys.to_jwks()),
                issuer.keys.as_ref().map(|held| held.at.unix_millis()),
                issuer.updated_at.unix_millis(),
            ),
        )
        .map(drop)
    }

    pub(crate) fn delete_issuer(&mut self, name: &str) -> Result<(), TxError> {
        self.execute(sql::DELETE_ISSUER, [name]).map(drop)
    }

    /// For tests of faults.
    #[cfg(test)]
    pub(super) fn connection(&self) -> &Connection {
        self.connection
    }

    fn execute(&self, sql: &str, params: impl Params) -> Result<usize, TxError> {
        Ok(self.connection.prepare_cached(sql)?.execute(params)?)
    }
}

fn edge_scopes(service: &Service) -> &[String] {
    service.edge.as_ref().map_or(&[], |edge| &edge.scopes)
}

fn edge_issuers(service: &Service) -> &[String] {
    service.edge.as_ref().map_or(&[], |edge| &edge.issuers)
}
