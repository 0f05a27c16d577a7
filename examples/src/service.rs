//! What every service of the examples does: its identity from the agent, its rules from a file, its decisions written down, its listener.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use bonafide_verifier::{
    agent_tokens::AgentTokens,
    authenticate::Authenticators,
    authorization::{Authorization, Builder, PolicyFiles},
    clock::{Clock, SystemClock},
    identity::{Identity, workload_api::WorkloadApi},
    limits::{Limits, Quotas},
    record::{JsonLines, JsonLinesOptions},
    serve::TlsIncoming,
    spiffe::SpiffeId,
    tls::{Acceptor, AcceptorOptions, PeerSet},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What every service is told.
#[derive(Clone, Debug, clap::Args)]
pub struct ServiceArguments {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub listen: String,
    /// Who may do what; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub policy: PathBuf,
    /// Where decisions are written down
    #[arg(long, value_name = "FILE")]
    pub records: PathBuf,
}

/// Who may connect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Connecting {
    /// Services, with their certificates.
    Services,
    /// Anybody: browsers have no certificate, nor has who proves itself by a key or a token. The rules look at every request either way.
    Anybody,
}

/// A service that has its identity.
pub struct Service {
    /// Its agent.
    pub api: WorkloadApi,
    /// Kept up to date by a task of its own.
    pub identity: Identity,
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// The system's.
    pub clock: Arc<dyn Clock>,
    /// Fires when it is to end.
    pub stop: CancellationToken,
    arguments: ServiceArguments,
}

impl Service {
    /// Waits until the agent has an identity for it.
    ///
    /// # Errors
    /// No agent, or none in time.
    pub async fn start(arguments: ServiceArguments) -> anyhow::Result<Self> {
        tracing_subscriber::fmt().with_writer(std::io::stderr).init();
        let stop = CancellationToken::new();
        tokio::spawn(stop_on_signal(stop.clone()));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let api = WorkloadApi::from_env()?;
        let identity = Identity::spawn(&api, Arc::clone(&clock));
        identity.ready(Duration::from_secs(30)).await?;
        let id = identity.id().context("an identity")?;
        Ok(Self { api, identity, id, clock, stop, arguments })
    }

    /// The token service of the trust domain, as the agent on the node offers it: keys of transaction tokens, issuers of users, and exchanges for an
    /// edge. Followed by a task of its own.
    ///
    /// # Errors
    /// The agent says nothing in time.
    pub async fn tokens(&self) -> anyhow::Result<AgentTokens> {
        let tokens = AgentTokens::spawn(&self.api, self.id.trust_domain().clone(), Arc::clone(&self.clock));
        tokens.ready(Duration::from_secs(30)).await?;
        Ok(tokens)
    }

    /// Who callers are is given; what they may do comes from the file, which has to be there and good.
    ///
    /// # Errors
    /// When the file is not, or records cannot be written.
    pub async fn authorization(
        &self,
        authenticators: Authenticators,
        further: impl FnOnce(Builder) -> Builder,
    ) -> anyhow::Result<Authorization> {
        let records = JsonLines::open(&self.arguments.records, JsonLinesOptions::default()).context("--records")?;
        let limits = Limits::new(Quotas::in_memory(), Arc::clone(&self.clock));
        let builder = Authorization::builder(authenticators, limits, Arc::clone(&self.clock));
        let authorization = further(builder.service(self.id.clone()).record_to(Arc::new(records))).build();
        let mut policy = PolicyFiles::new(self.id.trust_domain().clone(), &self.arguments.policy);
        policy.look(&authorization).await;
        let file = self.arguments.policy.display();
        ensure!(authorization.has_policy(), "--policy `{file}` cannot be used; the log says why");
        tokio::spawn(policy.run(authorization.clone(), self.stop.clone()));
        Ok(authorization)
    }

    /// Listens, and says so: `ready listen=ADDRESS`. Gives the port, too.
    ///
    /// # Errors
    /// The address is not to be had.
    pub async fn listen(&self, connecting: Connecting) -> anyhow::Result<(TlsIncoming, u16)> {
        let listen = &self.arguments.listen;
        let listener = TcpListener::bind(listen).await.with_context(|| format!("--listen {listen}"))?;
        let address = listener.local_addr()?;
        let mut options = AcceptorOptions::default();
        options.dangerously_admit_anonymous = connecting == Connecting::Anybody;
        let callers = PeerSet::any_of(self.id.trust_domain().clone());
        let acceptor = Acceptor::new(&self.identity, callers, options)?;
        println!("ready listen={address}");
        Ok((TlsIncoming::new(listener, &acceptor), address.port()))
    }
}

async fn stop_on_signal(stop: CancellationToken) {
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    if let Ok(mut terminate) = terminate {
        terminate.recv().await;
        stop.cancel();
    }
}
