//! Who asks at the token endpoint.

use bonafide_verifier::{
    authenticate::{HeaderView, Presented},
    authorization::Granted,
    caller::Caller,
    serve::ConnectionInfo,
    spiffe::{PublicKey, SpiffeId, TrustDomain},
    tls::Peer,
    x509::VerifiedPeer,
};
use http::{header, request::Parts};

use super::{TokenService, form::Form, refusal::TokenRefusal};

/// `client_assertion_type`: RFC 7523 §2.2, and draft-ietf-oauth-spiffe-client-auth, which says that the assertion is a JWT-SVID. Here both are.
pub(super) const ASSERTION_TYPES: [&str; 2] = [
    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe",
];

/// A service of the trust domain that has proved itself.
pub(super) struct Client {
    id: SpiffeId,
    granted: Granted,
    /// The certificate on the connection, if that is what it proved itself by.
    peer: Option<VerifiedPeer>,
    by: &'static str,
}

impl Client {
    pub(super) fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// As the token policy is asked about it.
    pub(super) fn granted(&self) -> &Granted {
        &self.granted
    }

    /// The key of the SVID on its connection, if there is one: what it signs about itself is signed with this one.
    pub(super) fn key(&self) -> Option<PublicKey> {
        self.peer.as_ref().and_then(|peer| PublicKey::from_spki(peer.spki()).ok())
    }

    /// How it proved itself, for records.
    pub(super) fn by(&self) -> &'static str {
        self.by
    }
}

impl TokenService {
    /// Who asks: by the certificate of the connection, or by an assertion in the form. Secrets and headers prove nobody here.
    pub(super) fn client(&self, head: &Parts, form: &Form) -> Result<Client, TokenRefusal> {
        let refuse = |code, reason: String| TokenRefusal::Client { code, reason };
        if head.headers.contains_key(header::AUTHORIZATION) || form.get("client_secret").is_some() {
            let reason = "a secret or a header was sent; clients prove themselves by an SVID".to_owned();
            return Err(refuse("client-method", reason));
        }
        let peer = head.extensions.get::<Peer>().and_then(|peer| match peer {
            Peer::Svid(peer) => Some(peer),
            Peer::Key(_) | Peer::Anonymous => None,
        });
        let assertion = match (form.get("client_assertion_type"), form.get("client_assertion")) {
            (None, None) => None,
            (Some(kind), Some(assertion)) if ASSERTION_TYPES.contains(&kind) => Some(assertion),
            (Some(_), Some(_)) => return Err(refuse("client-method", "an assertion of another type".to_owned())),
            (Some(_), None) | (None, Some(_)) => {
                return Err(TokenRefusal::Parameter {
                    name: "client_assertion",
                    expected: "`client_assertion` and `client_assertion_type` come together",
                });
            }
        };
        // RFC 6749 §2.3: one method in a request.
        if peer.is_some() && assertion.is_some() {
            return Err(TokenRefusal::Parameter {
                name: "client_assertion",
                expected: "the connection has proved the client already",
            });
        }
        let bearer = assertion.map(|assertion| format!("Bearer {assertion}"));
        let headers: Vec<(&str, &[u8])> = bearer.iter().map(|value| ("authorization", value.as_bytes())).collect();
        let address = head.extensions.get::<ConnectionInfo>().map(|info| info.remote.ip());
        let headers: &dyn HeaderView = &Assertion(&headers);
        let presented = Presented { connection: peer, headers, address, session: None, at: self.inner.clock.now() };
        let caller = match self.inner.authenticators.authenticate(&presented) {
            Ok(Some(caller)) => caller,
            Ok(None) => return Err(refuse("no-credential", "no certificate and no assertion".to_owned())),
            Err(error) => return Err(refuse(error.code(), error.to_string())),
        };
        let id = check_client(&caller, form, &self.inner.trust_domain)?;
        // An SVID outlives the service that it was issued to; new tokens end with the service.
        if self.inner.registry.load().service_by_path(id.path()).is_none() {
            return Err(refuse("service-unknown", format!("`{id}` is not registered any more")));
        }
        let by = if peer.is_some() { "x509-svid" } else { "jwt-svid" };
        Ok(Client {
            id,
            granted: Granted { caller, on_behalf_of: None, trace: None, waits_for_facts: true },
            peer: peer.cloned(),
            by,
        })
    }
}

fn check_client(caller: &Caller, form: &Form, trust_domain: &TrustDomain) -> Result<SpiffeId, TokenRefusal> {
    let is_ours = |id: &&SpiffeId| id.trust_domain() == trust_domain && !id.is_reserved() && !id.path().is_empty();
    let Some(id) = caller.service().filter(is_ours) else {
        let reason = format!("`{}` is no service of the trust domain", caller.id());
        return Err(TokenRefusal::Client { code: "no-client", reason });
    };
    match form.get("client_id") {
        Some(given) if given != id.as_str() => {
            let reason = format!("`client_id` is not `{id}`, which has proved itself");
            Err(TokenRefusal::Client { code: "client-id", reason })
        }
        Some(_) | None => Ok(id.clone()),
    }
}

/// An assertion, as authenticators look for tokens.
struct Assertion<'a>(&'a [(&'a str, &'a [u8])]);

impl HeaderView for Assertion<'_> {
    fn find(&self, name: &str) -> bonafide_verifier::authenticate::Found<'_> {
        self.0.find(name)
    }
}
