//! The admin API: an operator's commands, on a Unix socket that only the owner of this process and root can open.
//!
//! Each method reads the registry's snapshot, or makes one change with its record in the audit log under the name that
//! the kernel gives to the peer.

mod answers;
mod incoming;
mod issuers;
mod refuse;
mod rollout;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bonafide_ca_api::generated::admin::admin_api_server::{AdminApi as Contract, AdminApiServer};
use bonafide_ca_api::generated::admin::{
    self, ListIssuersRequest, ListIssuersResponse, RefreshIssuerRequest, RemoveIssuerRequest, RemoveIssuerResponse,
    ShowIssuerRequest,
};
use bonafide_ca_api::generated::admin::{
    AddIssuerRequest, AddServiceRequest, HealthPart, InviteNodeRequest, InviteNodeResponse, ListAuthoritiesRequest,
    ListAuthoritiesResponse, ListNodesRequest, ListNodesResponse, ListServicesRequest, ListServicesResponse, Node,
    RemoveNodeRequest, RemoveNodeResponse, RemoveServiceRequest, RemoveServiceResponse, Service, ShowBundleRequest,
    ShowBundleResponse, ShowNodeRequest, ShowServiceRequest, StatusRequest, StatusResponse, UpdateServiceRequest,
};
use bonafide_ca_api::{
    CaAddress, Invitation, InvitationSecret, Labels, NodeName, Placement, Reason, Selector, refusal,
};
use bonafide_verifier::clock::{Clock, Timestamp};
use bonafide_verifier::serve::{Drained, ServeOptions, serve};
use data_encoding::HEXLOWER;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use self::answers::{authority, node, ttl};
pub(crate) use self::incoming::AdminIncoming;
use self::incoming::Administrator;
use self::rollout::Rollout;
use crate::audit::{self, Who};
use crate::authority::{Authorities, AuthorityKind};
use crate::health::Health;
use crate::node_api::Hub;
use crate::registry::{self, NewInvitation, NewService, Registry, ServiceUpdate, Snapshot};
use crate::store::{Store, WriteError};
use crate::user_issuers::IssuerKeeper;

/// What the admin API is made of.
#[derive(Clone, Debug)]
pub(crate) struct AdminApi {
    pub(crate) registry: Registry,
    pub(crate) store: Store,
    pub(crate) authorities: Authorities,
    pub(crate) hub: Arc<Hub>,
    pub(crate) health: Health,
    pub(crate) issuers: IssuerKeeper,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) root_sha256: [u8; 32],
    /// Named in invitations.
    pub(crate) advertised: Vec<CaAddress>,
    /// The node API's address as it was bound.
    pub(crate) node_address: SocketAddr,
    pub(crate) started_at: Timestamp,
}

impl AdminApi {
    /// Answers commands until `stop`.
    pub(crate) async fn serve(self, incoming: AdminIncoming, stop: CancellationToken) -> Drained {
        let mut options = ServeOptions::default();
        options.connections = CONNECTIONS;
        options.http2.concurrent_streams = 16;
        let server = AdminApiServer::new(self).max_decoding_message_size(MAX_REQUEST);
        serve(incoming, tonic::service::Routes::new(server).into_axum_router(), options, stop).await
    }

    /// The node as its row, its stream and its invitation tell.
    fn node(&self, snapshot: &Snapshot, name: &NodeName) -> Option<Node> {
        let live = snapshot.node(name);
        let invitation = snapshot.invitation(name).filter(|invitation| invitation.expires_at > self.clock.now());
        if live.is_none() && invitation.is_none() {
            return None;
        }
        Some(node(name, live.map(|live| (&**live, snapshot)), invitation.map(|i| &**i), self.hub.status(name)))
    }

    fn service(&self, snapshot: &Snapshot, service: &registry::Service) -> Service {
        let (nodes, acknowledged) = rollout::of_one(snapshot, &self.hub, service);
        answers::service(service, nodes, acknowledged)
    }

    /// When the last SVID expires that a service has, or that the services on a node have: by what was issued, since a lifetime may
    /// have been shortened, or the service taken off the node, after that. Where that cannot be told, the latest that it can be.
    async fn last_expiry(&self, about: audit::Filter) -> i64 {
        let now = self.clock.now();
        // No service has a longer lifetime than a third of an authority's.
        let authorities = self.authorities.list();
        let signing = authorities.iter().filter(|authority| authority.kind != AuthorityKind::Root);
        let longest =
            signing.map(|authority| authority.not_after.since(authority.not_before)).max().unwrap_or_default() / 3;
        let about = audit::Filter { since: Some(now.saturating_sub(longest)), ..about };
        let issued = self.store.read(move |reader| audit::last_expiry(reader, about, now)).await;
        match issued {
            Ok(issued) if issued.is_complete => issued.at.map_or(0, Timestamp::unix_millis),
            Ok(_) => now.saturating_add(longest).unix_millis(),
            Err(error) => {
                warn!(%error, "the log does not tell what was issued; assuming the longest lifetime");
                now.saturating_add(longest).unix_millis()
            }
        }
    }
}

#[tonic::async_trait]
impl Contract for AdminApi {
    async fn invite_node(&self, request: Request<InviteNodeRequest>) -> Result<Response<InviteNodeResponse>, Status> {
        let who = who(&request)?;
        let request = request.into_inner();
        let name = parse_name(&request.name)?;
        let labels = Labels::from_pairs(request.labels).map_err(invalid)?;
        let secret = InvitationSecret::generate().map_err(|error| refuse::internal(&error))?;
        let new = NewInvitation { node: name.clone(), labels, ttl: ttl(request.ttl_s), replace: request.replace };
        let invited = self.registry.invite(new, secret.hash(), who.clone()).await.map_err(refuse::invite)?;
        let invitation = Invitation::new(
            self.advertised.clone(),
            self.registry.trust_domain().clone(),
            self.root_sha256,
            secret,
            invited.expires_at,
        )
        .map_err(|error| refuse::internal(&error))?;
        info!(node = %name, by = %who, expires_at = %invited.expires_at, replaces = invited.replaces, "invited node");
        Ok(Response::new(InviteNodeResponse {
            invitation: invitation.expose_secret_string().to_string(),
            expires_at_ms: invited.expires_at.unix_millis(),
        }))
    }

    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Result<Response<ListNodesResponse>, Status> {
        who(&request)?;
        let request = request.into_inner();
        let (api, snapshot) = (self.clone(), self.registry.load());
        let page = blocking(move || {
            let mut names: Vec<&NodeName> = snapshot.nodes().into_iter().map(|node| &node.name).collect();
            names.extend(snapshot.invitations().into_iter().map(|invitation| &invitation.node));
            names.sort_unstable();
            names.dedup();
            let mut rest = names.into_iter().filter(|name| name.as_str() > request.after.as_str()).peekable();
            let mut nodes = Vec::new();
            while nodes.len() < page_size(request.page_size)
                && let Some(name) = rest.next()
            {
                nodes.extend(api.node(&snapshot, name));
            }
            ListNodesResponse { nodes, more: rest.peek().is_some() }
        });
        Ok(Response::new(page.await?))
    }

    async fn show_node(&self, request: Request<ShowNodeRequest>) -> Result<Response<Node>, Status> {
        who(&request)?;
        let name = parse_name(&request.into_inner().name)?;
        let node = self.node(&self.registry.load(), &name);
        node.map(Response::new).ok_or_else(|| refuse::node_unknown(&name))
    }

    async fn remove_node(&self, request: Request<RemoveNodeRequest>) -> Result<Response<RemoveNodeResponse>, Status> {
        let who = who(&request)?;
        let name = parse_name(&request.into_inner().name)?;
        let last_svid_expires_ms = match self.registry.remove_node(name.clone(), who.clone()).await {
            Ok(()) => {
                let node = Some(name.to_string());
                self.last_expiry(audit::Filter { node, ..audit::Filter::default() }).await
            }
            // Never joined: its invitation is all there is.
            Err(WriteError::Refused(registry::NodeError::Unknown { .. })) => {
                let revoked = self.registry.revoke_invitation(name.clone(), who.clone()).await;
                if !revoked.map_err(refuse::impossible)? {
                    return Err(refuse::node_unknown(&name));
                }
                0
            }
            Err(error) => return Err(refuse::node(error)),
        };
        info!(node = %name, by = %who, "removed node");
        Ok(Response::new(RemoveNodeResponse { last_svid_expires_ms }))
    }

    async fn add_service(&self, request: Request<AddServiceRequest>) -> Result<Response<Service>, Status> {
        let who = who(&request)?;
        let request = request.into_inner();
        // Without a scope it is no edge, which the registry says.
        if !request.edge_scopes.is_empty() {
            self.issuers_known(&request.edge_issuers, &[])?;
        }
        let new = NewService {
            path: request.path,
            selectors: parse_selectors(&request.selectors)?,
            placements: parse_placements(&request.on)?,
            x509_ttl: ttl(request.x509_ttl_s),
            jwt_ttl: ttl(request.jwt_ttl_s),
            dns_names: request.dns_names,
            hint: request.hint,
            edge_scopes: request.edge_scopes,
            edge_issuers: request.edge_issuers,
        };
        let service = self.registry.add_service(new, who.clone()).await.map_err(refuse::service)?;
        info!(spiffe_id = %service.spiffe_id, by = %who, "registered service");
        Ok(Response::new(self.service(&self.registry.load(), &service)))
    }

    async fn list_services(
        &self,
        request: Request<ListServicesRequest>,
    ) -> Result<Response<ListServicesResponse>, Status> {
        who(&request)?;
        let request = request.into_inner();
        let (hub, snapshot) = (self.hub.clone(), self.registry.load());
        let page = blocking(move || {
            let rollout = Rollout::new(&snapshot, &hub);
            let services = snapshot.services();
            let mut rest = services.into_iter().filter(|service| service.path() > request.after.as_str()).peekable();
            let mut page = Vec::new();
            while page.len() < page_size(request.page_size)
                && let Some(service) = rest.next()
            {
                let (nodes, acknowledged) = rollout.of(&snapshot, service);
                page.push(answers::service(service, nodes, acknowledged));
            }
            ListServicesResponse { services: page, more: rest.peek().is_some() }
        });
        Ok(Response::new(page.await?))
    }

    async fn show_service(&self, request: Request<ShowServiceRequest>) -> Result<Response<Service>, Status> {
        who(&request)?;
        let path = request.into_inner().path;
        let snapshot = self.registry.load();
        let service = answers::path_in(self.registry.trust_domain(), &path)
            .and_then(|path| snapshot.service_by_path(&path))
            .ok_or_else(|| refuse::service_unknown(&path))?;
        Ok(Response::new(self.service(&snapshot, service)))
    }

    async fn update_service(&self, request: Request<UpdateServiceRequest>) -> Result<Response<Service>, Status> {
        let who = who(&request)?;
        let request = request.into_inner();
        if let Some(list) = &request.edge_issuers {
            let snapshot = self.registry.load();
            let service = answers::path_in(self.registry.trust_domain(), &request.path)
                .and_then(|path| snapshot.service_by_path(&path));
            let edge = service.and_then(|service| service.edge.as_ref());
            self.issuers_known(&list.values, edge.map_or(&[], |edge| &edge.issuers))?;
        }
        let lifetime = |seconds: Option<u32>| seconds.map(|seconds| Duration::from_secs(seconds.into()));
        let update = ServiceUpdate {
            selectors: request.selectors.map(|list| parse_selectors(&list.values)).transpose()?,
            placements: request.on.map(|list| parse_placements(&list.values)).transpose()?,
            x509_ttl: lifetime(request.x509_ttl_s),
            jwt_ttl: lifetime(request.jwt_ttl_s),
            dns_names: request.dns_names.map(|list| list.values),
            hint: request.hint,
            edge_scopes: request.edge_scopes.map(|list| list.values),
            edge_issuers: request.edge_issuers.map(|list| list.values),
        };
        let updated = self.registry.update_service(request.path, update, who.clone()).await;
        let service = updated.map_err(refuse::service)?;
        info!(spiffe_id = %service.spiffe_id, by = %who, "changed service");
        Ok(Response::new(self.service(&self.registry.load(), &service)))
    }

    async fn remove_service(
        &self,
        request: Request<RemoveServiceRequest>,
    ) -> Result<Response<RemoveServiceResponse>, Status> {
        let who = who(&request)?;
        let removed = self.registry.remove_service(request.into_inner().path, who.clone()).await;
        let service = removed.map_err(refuse::service)?;
        info!(spiffe_id = %service.spiffe_id, by = %who, "removed service");
        let spiffe_id = Some(service.spiffe_id.to_string());
        let last_svid_expires_ms = self.last_expiry(audit::Filter { spiffe_id, ..audit::Filter::default() }).await;
        Ok(Response::new(RemoveServiceResponse { last_svid_expires_ms }))
    }

    async fn add_issuer(&self, request: Request<AddIssuerRequest>) -> Result<Response<admin::Issuer>, Status> {
        let who = who(&request)?;
        Ok(Response::new(self.issuer_added(request.into_inner(), who).await?))
    }

    async fn list_issuers(
        &self,
        request: Request<ListIssuersRequest>,
    ) -> Result<Response<ListIssuersResponse>, Status> {
        who(&request)?;
        let snapshot = self.registry.load();
        let issuers = snapshot.issuers().map(|issuer| self.issuer(issuer)).collect();
        Ok(Response::new(ListIssuersResponse { issuers }))
    }

    async fn show_issuer(&self, request: Request<ShowIssuerRequest>) -> Result<Response<admin::Issuer>, Status> {
        who(&request)?;
        Ok(Response::new(self.issuer_shown(&request.into_inner().name)?))
    }

    async fn remove_issuer(
        &self,
        request: Request<RemoveIssuerRequest>,
    ) -> Result<Response<RemoveIssuerResponse>, Status> {
        let who = who(&request)?;
        let removed = self.registry.remove_issuer(&request.into_inner().name, who.clone()).await;
        let removed = removed.map_err(refuse::issuer)?;
        let named_by = self.edges_of(removed.name());
        info!(issuer = %removed.name(), by = %who, edges = named_by.len(), "removed issuer");
        let edges = u32::try_from(named_by.len()).unwrap_or(u32::MAX);
        let named_by = named_by.into_iter().take(NAMED_BY).collect();
        Ok(Response::new(RemoveIssuerResponse { named_by, edges }))
    }

    async fn refresh_issuer(&self, request: Request<RefreshIssuerRequest>) -> Result<Response<admin::Issuer>, Status> {
        let who = who(&request)?;
        Ok(Response::new(self.issuer_refreshed(&request.into_inner().name, who).await?))
    }

    async fn show_bundle(&self, request: Request<ShowBundleRequest>) -> Result<Response<ShowBundleResponse>, Status> {
        who(&request)?;
        let snapshot = self.registry.load();
        let bundle = snapshot.bundle();
        Ok(Response::new(ShowBundleResponse {
            trust_domain: self.registry.trust_domain().as_str().to_owned(),
            spiffe_json: bundle.to_spiffe_json().into(),
            pem: bundle.to_pem(),
        }))
    }

    async fn list_authorities(
        &self,
        request: Request<ListAuthoritiesRequest>,
    ) -> Result<Response<ListAuthoritiesResponse>, Status> {
        who(&request)?;
        let authorities = self.authorities.list().iter().map(authority).collect();
        Ok(Response::new(ListAuthoritiesResponse { authorities }))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        who(&request)?;
        let snapshot = self.registry.load();
        let position = snapshot.position();
        let head = self.store.head();
        let health = self.health.conditions().into_iter().map(|condition| HealthPart {
            part: condition.part.as_str().to_owned(),
            state: condition.state.as_str().to_owned(),
            reason: condition.reason,
        });
        // The first is where it listens, the others are what invitations name.
        let mut listen_addresses = vec![self.node_address.to_string()];
        listen_addresses.extend(self.advertised.iter().map(ToString::to_string));
        Ok(Response::new(StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_domain: self.registry.trust_domain().as_str().to_owned(),
            root_hash: HEXLOWER.encode(&self.root_sha256),
            epoch: position.epoch.to_string(),
            registry_version: position.version,
            bundle_sequence: snapshot.bundle().sequence().unwrap_or(0),
            nodes: answers::count(snapshot.node_count()),
            nodes_connected: answers::count(self.hub.connected()),
            services: answers::count(snapshot.service_count()),
            started_at_ms: self.started_at.unix_millis(),
            health: health.collect(),
            listen_addresses,
            now_ms: self.clock.now().unix_millis(),
            audit_records: head.seq,
            audit_head: HEXLOWER.encode(&head.hash),
        }))
    }
}

/// The administrator that the listener found. Without one nothing is answered: another listener must not open this API.
fn who<T>(request: &Request<T>) -> Result<Who, Status> {
    let administrator = request.extensions().get::<Administrator>();
    administrator.map(Administrator::who).ok_or_else(|| {
        refusal(Reason::NotAdministrator, "only the owner of the CA process and root may give commands", None)
    })
}

fn parse_name(name: &str) -> Result<NodeName, Status> {
    NodeName::parse(name).map_err(invalid)
}

fn parse_selectors(texts: &[String]) -> Result<Vec<Selector>, Status> {
    bounded("selectors", texts, Selector::MAX_COUNT)?;
    texts.iter().map(|text| Selector::parse(text).map_err(invalid)).collect()
}

fn parse_placements(texts: &[String]) -> Result<Vec<Placement>, Status> {
    bounded("places to run on", texts, Placement::MAX_COUNT)?;
    texts.iter().map(|text| Placement::parse(text).map_err(invalid)).collect()
}

fn bounded(what: &str, texts: &[String], limit: usize) -> Result<(), Status> {
    if texts.len() > limit {
        return Err(invalid(format_args!("{} {what} are given, a service can have {limit}", texts.len())));
    }
    Ok(())
}

fn invalid(error: impl std::fmt::Display) -> Status {
    refusal(Reason::InvalidValue, error.to_string(), None)
}

/// What takes longer the more is registered leaves the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|error| refuse::internal(&error))
}

/// Never more than [`PAGE`], whatever is asked for (T-11).
fn page_size(asked: u32) -> usize {
    match usize::try_from(asked) {
        Ok(asked) if (1..=PAGE).contains(&asked) => asked,
        _ => PAGE,
    }
}

const PAGE: usize = 1_000;
/// Of the edges that name an issuer that was removed.
const NAMED_BY: usize = 16;
/// Far more than one person and her scripts need.
const CONNECTIONS: usize = 128;
/// Room for a service with every list full, and for an issuer with its roots and the largest key set.
const MAX_REQUEST: usize = 512 * 1024;

#[cfg(test)]
mod tests;
