//! The same for those who speak gRPC: a stream of states.

use std::pin::Pin;

use bonafide_examples::generated::settings::{State, WatchRequest, settings_server::Settings};
use bonafide_verifier::{http::Grant, policy::CanonicalPath};
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};
use tonic::{Code, Request, Response, Status};

use crate::{
    api::Hub,
    store::{Name, StoreError},
};

#[tonic::async_trait]
impl Settings for Hub {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<State, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let grant = request.extensions().get::<Grant>().cloned().ok_or_else(|| Status::internal("no permission"))?;
        let service = Name::parse(&request.into_inner().service)?;
        // Over HTTP the path says whose settings are meant and the rules look at it; here it is in the message, so the rules are asked again.
        let resource = format!("/{service}");
        let resource = CanonicalPath::parse(&resource).map_err(|_| Status::invalid_argument("service"))?;
        grant.check_action("watch", resource, &Default::default())?;
        let states = WatchStream::new(self.store.watch(&service)?).map(|state| {
            let settings = state.settings.iter().map(|(name, setting)| (name.clone(), setting.value.clone()));
            Ok(State { version: state.version, settings: settings.collect() })
        });
        Ok(Response::new(Box::pin(states)))
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        let (status, detail) = error.told();
        let code = match status.as_u16() {
            400 => Code::InvalidArgument,
            409 => Code::Aborted,
            507 => Code::ResourceExhausted,
            _ => Code::Internal,
        };
        Self::new(code, detail)
    }
}
