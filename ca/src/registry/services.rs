//! Services: added, changed and removed by an administrator.

use std::{sync::Arc, time::Duration};

use bonafide_ca_api::{Placement, Selector};
use serde::Serialize;

use super::{
    Change, Edge, Registry, Service, ServiceError, What,
    validate::{self, JWT, X509},
};
use crate::{
    audit::{Kind, Record, Who},
    store::{Abort, Tx, WriteError},
};

/// What an administrator asks for.
#[derive(Clone, Debug)]
pub(crate) struct NewService {
    /// `photo`, `/photo` or the whole SPIFFE ID.
    pub(crate) path: String,
    pub(crate) selectors: Vec<Selector>,
    pub(crate) placements: Vec<Placement>,
    /// None: the default.
    pub(crate) x509_ttl: Option<Duration>,
    pub(crate) jwt_ttl: Option<Duration>,
    pub(crate) dns_names: Vec<String>,
    pub(crate) hint: String,
    /// At least one scope makes it an edge.
    pub(crate) edge_scopes: Vec<String>,
    pub(crate) edge_issuers: Vec<String>,
}

/// What changes of a service; what is absent stays. A list replaces the whole list.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServiceUpdate {
    pub(crate) selectors: Option<Vec<Selector>>,
    pub(crate) placements: Option<Vec<Placement>>,
    pub(crate) x509_ttl: Option<Duration>,
    pub(crate) jwt_ttl: Option<Duration>,
    pub(crate) dns_names: Option<Vec<String>>,
    pub(crate) hint: Option<String>,
    /// No scopes: it is no edge any more, and has no issuers either.
    pub(crate) edge_scopes: Option<Vec<String>>,
    pub(crate) edge_issuers: Option<Vec<String>>,
}

impl Registry {
    /// Registers a service. Nodes that may hold it are told at once.
    pub(crate) async fn add_service(
        &self,
        new: NewService,
        who: Who,
    ) -> Result<Arc<Service>, WriteError<ServiceError>> {
        let mut service = self.checked(new).map_err(WriteError::Refused)?;
        let registry = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let limit = registry.rules().services;
                if tx.service(service.path(), registry.trust_domain())?.is_some() {
                    return Err(Abort::Refused(ServiceError::Exists { path: service.path().to_owned() }));
                }
                if tx.count_services()? >= limit {
                    return Err(Abort::Refused(ServiceError::TooManyServices { limit }));
                }
                registry.check_hint(tx, &service)?;
                (service.created_at, service.updated_at) = (tx.at(), tx.at());
                service.version = tx.next_version()?;
                tx.insert_service(&service)?;
                tx.record(&Record::change(Kind::ServiceAdded, &who, Body::of(&service)))?;
                Ok(registry.publish_service(tx, None, service))
            })
            .await
    }

    /// Changes a service. Nothing is written when nothing differs.
    pub(crate) async fn update_service(
        &self,
        path: String,
        update: ServiceUpdate,
        who: Who,
    ) -> Result<Arc<Service>, WriteError<ServiceError>> {
        let id = validate::spiffe_id(self.trust_domain(), &path).map_err(WriteError::Refused)?;
        let registry = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let Some(before) = tx.service(id.path(), registry.trust_domain())? else {
                    return Err(Abort::Refused(ServiceError::Unknown { path: id.path().to_owned() }));
                };
                let mut after = registry.updated(&before, update).map_err(Abort::Refused)?;
                if after == before {
                    return Ok(Arc::new(before));
                }
                registry.check_hint(tx, &after)?;
                after.updated_at = tx.at();
                after.version = tx.next_version()?;
                tx.update_service(&after)?;
                registry.end_uncovered(tx, &before, Some(&after), &who)?;
                tx.record(&Record::change(Kind::ServiceUpdated, &who, Body::of(&after)))?;
                Ok(registry.publish_service(tx, Some(Arc::new(before)), after))
            })
            .await
    }

    /// Removes a service. What was issued for it stays valid until it expires.
    pub(crate) async fn remove_service(
        &self,
        path: String,
        who: Who,
    ) -> Result<Arc<Service>, WriteError<ServiceError>> {
        let id = validate::spiffe_id(self.trust_domain(), &path).map_err(WriteError::Refused)?;
        let registry = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let Some(service) = tx.service(id.path(), registry.trust_domain())? else {
                    return Err(Abort::Refused(ServiceError::Unknown { path: id.path().to_owned() }));
                };
                let version = tx.next_version()?;
                tx.delete_service(&service.id)?;
                registry.end_uncovered(tx, &service, None, &who)?;
                tx.record(&Record::change(Kind::ServiceRemoved, &who, Body::of(&service)))?;
                let service = Arc::new(service);
                let what = What::Service { before: Some(service.clone()), after: None };
                registry.publish_with(tx, Change { version: Some(version), what });
                Ok(service)
            })
            .await
    }

    fn checked(&self, new: NewService) -> Result<Service, ServiceError> {
        let rules = self.rules();
        let lifetime = |kind, ttl: Option<Duration>| match ttl {
            Some(ttl) => validate::lifetime(kind, ttl, rules),
            None => Ok(validate::default_lifetime(kind, rules)),
        };
        validate::hint(&new.hint)?;
        let now = self.inner.clock.now();
        Ok(Service {
            id: uuid::Uuid::now_v7().to_string().into(),
            spiffe_id: validate::spiffe_id(self.trust_domain(), &new.path)?,
            selectors: validate::selectors(new.selectors)?,
            placements: validate::placements(new.placements)?,
            x509_ttl: lifetime(X509, new.x509_ttl)?,
            jwt_ttl: lifetime(JWT, new.jwt_ttl)?,
            dns_names: validate::dns_names(new.dns_names, rules.dns_names)?,
            hint: new.hint,
            edge: validate::edge(new.edge_scopes, new.edge_issuers)?,
            version: 0,
            created_at: now,
            updated_at: now,
        })
    }

    fn updated(&self, before: &Service, update: ServiceUpdate) -> Result<Service, ServiceError> {
        let rules = self.rules();
        let mut after = before.clone();
        if let Some(selectors) = update.selectors {
            after.selectors = validate::selectors(selectors)?;
        }
        if let Some(placements) = update.placements {
            after.placements = validate::placements(placements)?;
        }
        if let Some(ttl) = update.x509_ttl {
            after.x509_ttl = validate::lifetime(X509, ttl, rules)?;
        }
        if let Some(ttl) = update.jwt_ttl {
            after.jwt_ttl = validate::lifetime(JWT, ttl, rules)?;
        }
        if let Some(names) = update.dns_names {
            after.dns_names = validate::dns_names(names, rules.dns_names)?;
        }
        if let Some(hint) = update.hint {
            validate::hint(&hint)?;
            after.hint = hint;
        }
        if update.edge_scopes.is_some() || update.edge_issuers.is_some() {
            let before = after.edge.take().unwrap_or(Edge { scopes: Vec::new(), issuers: Vec::new() });
            let is_none_now = update.edge_scopes.as_ref().is_some_and(Vec::is_empty) && update.edge_issuers.is_none();
            let issuers = if is_none_now { Vec::new() } else { update.edge_issuers.unwrap_or(before.issuers) };
            after.edge = validate::edge(update.edge_scopes.unwrap_or(before.scopes), issuers)?;
        }
        Ok(after)
    }

    /// A workload picks an SVID by its hint: no two that it could hold may have the same.
    fn check_hint(&self, tx: &Tx<'_>, service: &Service) -> Result<(), Abort<ServiceError>> {
        for other in tx.services_by_hint(&service.hint, self.trust_domain())? {
            if other.id != service.id && service.could_meet(&other) {
                let (hint, other) = (service.hint.escape_debug().to_string(), other.path().to_owned());
                return Err(Abort::Refused(ServiceError::HintTaken { hint, other }));
            }
        }
        Ok(())
    }

    fn publish_service(&self, tx: &mut Tx<'_>, before: Option<Arc<Service>>, after: Service) -> Arc<Service> {
        let (version, after) = (after.version, Arc::new(after));
        let what = What::Service { before, after: Some(after.clone()) };
        self.publish_with(tx, Change { version: Some(version), what });
        after
    }
}

/// A service in a record.
#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    spiffe_id: &'a str,
    version: u64,
    selectors: Vec<String>,
    on: Vec<String>,
    x509_ttl_s: u64,
    jwt_ttl_s: u64,
    dns_names: &'a [String],
    hint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    edge_scopes: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edge_issuers: Option<&'a [String]>,
}

impl<'a> Body<'a> {
    fn of(service: &'a Service) -> Self {
        Self {
            id: &service.id,
            spiffe_id: service.spiffe_id.as_str(),
            version: service.version,
            selectors: service.selectors.iter().map(ToString::to_string).collect(),
            on: service.placements.iter().map(ToString::to_string).collect(),
            x509_ttl_s: service.x509_ttl.as_secs(),
            jwt_ttl_s: service.jwt_ttl.as_secs(),
            dns_names: &service.dns_names,
            hint: &service.hint,
            edge_scopes: service.edge.as_ref().map(|edge| &*edge.scopes),
            edge_issuers: service.edge.as_ref().map(|edge| &*edge.issuers),
        }
    }
}
