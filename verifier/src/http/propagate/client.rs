//! Clients that tell for whom they call.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{
    HeaderValue, Request, Uri,
    header::HeaderName,
    uri::{Authority, Scheme},
};
use http_body::Body;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use pin_project_lite::pin_project;

use super::{NoContext, current};
use crate::{clock::Timestamp, identity::Identity, on_behalf_of::OnBehalfOf, spiffe::TrustDomain, tls::Connector};

/// The HTTP client inside a [`UserClient::http`].
pub type HttpClient<B> = Client<Connector, B>;

const TXN_TOKEN: HeaderName = HeaderName::from_static("txn-token");

/// A client whose requests carry the transaction token of the request because of which they are made ([`super`]).
///
/// The token goes nowhere else than to servers that the client's [`Connector`] has verified as IDs of the token's own trust domain: the client
/// inside is made here, with that connector, and for one origin. A request for another origin, such as one that a redirect asks for, fails.
/// Nothing is dropped silently: without a context a call fails, and with [`UserClient::require_user`] also without a user.
#[derive(Clone)]
pub struct UserClient<S> {
    inner: S,
    to: Arc<Destination>,
    required: bool,
}

#[derive(Debug)]
struct Destination {
    trust_domain: TrustDomain,
    /// None where the client inside knows one origin alone.
    origin: Option<(Scheme, Authority)>,
    identity: Identity,
}

/// A client that could carry a token to strangers.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum UserClientError {
    /// Whom the connector expects is not of one trust domain, or changes.
    #[error(
        "the connector takes servers that are not all of one trust domain ({expected}); name the expected servers by IDs or patterns of the own one"
    )]
    Servers {
        /// Whom it takes.
        expected: String,
    },
    /// Not an origin.
    #[error("`{uri}` is no origin; write `https://host:port`")]
    Origin {
        /// The text.
        uri: String,
    },
}

/// Why a request was not sent.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NotSent {
    /// Nobody can tell for whom.
    #[error("not sent: {0}")]
    NoContext(#[from] NoContext),
    /// For nobody, and the client calls for users only.
    #[error("not sent: the request that this is done for has no user, and this client calls for users only")]
    NoUser,
    /// The token has ended meanwhile.
    #[error("not sent: the user's transaction token ended at {ended_at}")]
    Ended {
        /// When, leeway included.
        ended_at: Timestamp,
    },
    /// Somewhere else than where the client calls.
    #[error("not sent: the client calls `{expected}`, this is for `{found}`; the user's token is not for there")]
    OtherOrigin {
        /// Where the client calls.
        expected: String,
        /// Where this was to go.
        found: String,
    },
    /// To servers of another trust domain.
    #[error("not sent: the user's transaction token is for `{token}`, the servers are of `{servers}`")]
    OtherTrustDomain {
        /// That of the token.
        token: TrustDomain,
        /// That of the servers.
        servers: TrustDomain,
    },
    /// The request has a transaction token already, and another one.
    #[error("not sent: the request carries another `Txn-Token` than the one of its context")]
    OtherToken,
}

impl<B> UserClient<HttpClient<B>>
where
    B: Body + Send + 'static + Unpin,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// For HTTP, to one origin: `https://photo.internal:8443`.
    ///
    /// # Errors
    /// When the connector could come to servers of another trust domain, or `origin` is none.
    pub fn http(connector: Connector, origin: &str) -> Result<Self, UserClientError> {
        let wrong = || UserClientError::Origin { uri: origin.to_owned() };
        let parts = origin.parse::<Uri>().map_err(|_| wrong())?.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else { return Err(wrong()) };
        let is_origin = scheme == Scheme::HTTPS && parts.path_and_query.is_none_or(|path| path == "/");
        if !is_origin || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let to = Destination::of(&connector, Some((scheme, authority)))?;
        Ok(Self { inner: Client::builder(TokioExecutor::new()).build(connector), to, required: false })
    }
}

#[cfg(feature = "tonic")]
impl UserClient<tonic::transport::Channel> {
    /// For gRPC: give it to a generated client's `new`. Connects when the first call is made.
    ///
    /// # Errors
    /// When the connector could come to servers of another trust domain.
    pub fn grpc(connector: Connector, endpoint: &tonic::transport::Endpoint) -> Result<Self, UserClientError> {
        let to = Destination::of(&connector, None)?;
        Ok(Self { inner: endpoint.connect_with_connector_lazy(connector), to, required: false })
    }
}

impl<S> UserClient<S> {
    /// Fails a call that is for no user.
    #[must_use]
    pub fn require_user(mut self) -> Self {
        self.required = true;
        self
    }

    /// Puts the token on the request, or says why it may not be sent.
    fn prepare<B>(&self, request: &mut Request<B>) -> Result<(), NotSent> {
        let user = current()?;
        if let Some(origin) = &self.to.origin
            && (request.uri().scheme(), request.uri().authority()) != (Some(&origin.0), Some(&origin.1))
        {
            let found = request.uri();
            let found = format!(
                "{}://{}",
                found.scheme_str().unwrap_or_default(),
                found.authority().map_or("", Authority::as_str)
            );
            return Err(NotSent::OtherOrigin { expected: format!("{}://{}", origin.0, origin.1), found });
        }
        let Some(user) = user else {
            return match request.headers().contains_key(TXN_TOKEN) {
                true => Err(NotSent::OtherToken),
                false if self.required => Err(NotSent::NoUser),
                false => Ok(()),
            };
        };
        let token = self.to.admits(&user)?;
        if request.headers().get_all(TXN_TOKEN).iter().any(|there| *there != token) {
            return Err(NotSent::OtherToken);
        }
        request.headers_mut().insert(TXN_TOKEN, token);
        Ok(())
    }
}

impl Destination {
    fn of(connector: &Connector, origin: Option<(Scheme, Authority)>) -> Result<Arc<Self>, UserClientError> {
        let expected = connector.expected();
        let trust_domain = expected.trust_domain().cloned();
        let trust_domain = trust_domain.ok_or_else(|| UserClientError::Servers { expected: expected.to_string() })?;
        Ok(Arc::new(Self { trust_domain, origin, identity: connector.identity().clone() }))
    }

    /// The token of this user, if it may go there.
    fn admits(&self, user: &OnBehalfOf) -> Result<HeaderValue, NotSent> {
        // Who asked for a token is of the trust domain that the token is for.
        let of_token = user.requester().trust_domain();
        if *of_token != self.trust_domain {
            return Err(NotSent::OtherTrustDomain { token: of_token.clone(), servers: self.trust_domain.clone() });
        }
        if self.identity.clock().now() >= user.valid_until() {
            return Err(NotSent::Ended { ended_at: user.valid_until() });
        }
        // A compact token is a header's value; if it were not, it could not have come here.
        let mut token = HeaderValue::from_str(user.expose_token()).map_err(|_| NotSent::OtherToken)?;
        token.set_sensitive(true);
        Ok(token)
    }
}

impl<S, B> tower_service::Service<Request<B>> for UserClient<S>
where
    S: tower_service::Service<Request<B>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = S::Response;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Sending<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.prepare(&mut request) {
            Ok(()) => Sending::Sent { inner: self.inner.call(request) },
            Err(why) => Sending::NotSent { why: Some(why) },
        }
    }
}

impl<S> UserClient<S> {
    /// Sends one request.
    ///
    /// # Errors
    /// When it may not be sent ([`NotSent`]), or what the client inside says.
    pub async fn request<B>(&self, request: Request<B>) -> Result<S::Response, Box<dyn std::error::Error + Send + Sync>>
    where
        S: tower_service::Service<Request<B>> + Clone,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut client = self.clone();
        std::future::poll_fn(|cx| tower_service::Service::<Request<B>>::poll_ready(&mut client, cx)).await?;
        tower_service::Service::call(&mut client, request).await
    }
}

pin_project! {
    /// A call of a [`UserClient`].
    #[project = Projected]
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub enum Sending<F> {
        Sent { #[pin] inner: F },
        NotSent { why: Option<NotSent> },
    }
}

impl<F, R, E> Future for Sending<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Output = Result<R, Box<dyn std::error::Error + Send + Sync>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projected::Sent { inner } => inner.poll(cx).map_err(Into::into),
            Projected::NotSent { why } => match why.take() {
                Some(why) => Poll::Ready(Err(why.into())),
                None => Poll::Pending,
            },
        }
    }
}

impl<S> fmt::Debug for UserClient<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserClient").field("to", &self.to).field("required", &self.required).finish_non_exhaustive()
    }
}
