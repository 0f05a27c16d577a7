//! JWT-SVIDs: fetched for audiences, validated for those who do not validate themselves (Workload API §6.2).

use std::sync::Arc;

use bonafide_ca_api::{Reason, refusal};
use bonafide_verifier::{jwt, spiffe::SpiffeId};
use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::Value as Json;
use tokio::task::JoinSet;
use tonic::Status;

use super::{caller::Caller, x509::Hints};
use crate::{
    generated::workload::{Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse},
    svid_cache::{Failure, jwt::JwtSvid},
    view::Service,
};

/// One token for each identity of the caller, or for the one it names.
pub(crate) async fn fetch(mut caller: Caller, request: JwtsvidRequest) -> Result<JwtsvidResponse, Status> {
    let audience = check_audience(&request.audience, &caller)?;
    let wanted = match request.spiffe_id.as_str() {
        "" => None,
        id => Some(SpiffeId::parse(id).map_err(|error| {
            refusal(Reason::RequestInvalid, format!("`spiffe_id` is not a SPIFFE ID: {error}"), None)
        })?),
    };
    let identified = caller.identify().await?;
    let is_wanted = |service: &&Arc<Service>| wanted.as_ref().is_none_or(|id| service.spiffe_id == *id);
    let services: Vec<Arc<Service>> = identified.services.iter().filter(is_wanted).cloned().collect();
    if services.is_empty() {
        let id = wanted.map(|id| id.to_string()).unwrap_or_default();
        return Err(refusal(Reason::NotYourIdentity, format!("`{id}` is not an identity of this process"), None));
    }

    let mut fetching = JoinSet::new();
    for (index, service) in services.iter().cloned().enumerate() {
        let (jwts, view, audience) = (caller.shared.parts.jwts.clone(), identified.view.clone(), audience.clone());
        fetching.spawn(async move { (index, jwts.fetch(&service, &audience, &view).await) });
    }
    let mut tokens: Vec<Option<Result<Arc<JwtSvid>, Failure>>> = services.iter().map(|_| None).collect();
    while let Some(fetched) = fetching.join_next().await {
        if let Ok((index, token)) = fetched
            && let Some(place) = tokens.get_mut(index)
        {
            *place = Some(token);
        }
    }

    // The CA may have taken its time: who is it that gets this?
    let identified = caller.identify_now().await?;
    if identified.services.is_empty() {
        return Err(caller.redacted(&identified));
    }
    let mut hints = Hints::default();
    let mut svids = Vec::new();
    for (index, (service, token)) in services.iter().zip(tokens).enumerate() {
        let still_granted = identified.services.iter().any(|now| now.id == service.id);
        match token {
            Some(Ok(token)) if still_granted => svids.push(Jwtsvid {
                spiffe_id: token.spiffe_id().to_string(),
                svid: token.expose_secret().to_owned(),
                hint: hints.unique(&service.hint),
            }),
            Some(Ok(_)) => {}
            // The first is the default identity, for which no other may be taken.
            Some(Err(failure)) if index == 0 => return Err(not_issued(service, &failure)),
            Some(Err(failure)) => {
                tracing::warn!(spiffe_id = %service.spiffe_id, reason = failure.code, error = failure.message, "no JWT-SVID");
            }
            None => return Err(refusal(Reason::Internal, "a fault of the agent; see its log", None)),
        }
    }
    if svids.is_empty() {
        return Err(refusal(Reason::NotYourIdentity, "this process has lost the identity it asked for", None));
    }
    Ok(JwtsvidResponse { svids })
}

fn not_issued(service: &Service, failure: &Failure) -> Status {
    if failure.code == Reason::TooManyCalls.code() {
        return refusal(Reason::TooManyCalls, failure.message.clone(), None);
    }
    let message = format!("the CA has not issued a JWT-SVID for `{}`: {}", service.spiffe_id, failure.message);
    refusal(Reason::NotIssued, message, None)
}

/// At least one, none empty (WAPI-10, JWT-10), each said once.
fn check_audience(audience: &[String], caller: &Caller) -> Result<Arc<[String]>, Status> {
    let limits = caller.shared.parts.limits;
    let invalid = |message: String| Err(refusal(Reason::RequestInvalid, message, None));
    if audience.is_empty() {
        return invalid("`audience` is missing: say whom the token is for".into());
    }
    if audience.len() > limits.audiences {
        return invalid(format!("{} audiences; at most {} are allowed", audience.len(), limits.audiences));
    }
    let mut once: Vec<String> = Vec::with_capacity(audience.len());
    for value in audience {
        if value.is_empty() {
            return invalid("an `audience` is empty".into());
        }
        if value.len() > limits.audience_bytes {
            let (length, limit) = (value.len(), limits.audience_bytes);
            return invalid(format!("an `audience` is {length} bytes long; at most {limit} are allowed"));
        }
        if !once.contains(value) {
            once.push(value.clone());
        }
    }
    Ok(once.into())
}

/// What the token proves to `audience` (WAPI-27..29).
pub(crate) async fn validate(
    mut caller: Caller,
    request: ValidateJwtsvidRequest,
) -> Result<ValidateJwtsvidResponse, Status> {
    for (field, value) in [("audience", &request.audience), ("svid", &request.svid)] {
        if value.is_empty() {
            return Err(refusal(Reason::RequestInvalid, format!("`{field}` is missing"), None));
        }
    }
    let identified = caller.identify().await?;
    let now = caller.shared.parts.clock.now();
    let verified = jwt::verify(&request.svid, &[&request.audience], identified.view.bundles(), now)
        .map_err(|error| refusal(Reason::TokenInvalid, format!("{error} ({})", error.code()), None))?;
    let claims = verified.claims().iter().map(|(name, value)| (name.clone(), to_value(value))).collect();
    Ok(ValidateJwtsvidResponse { spiffe_id: verified.id().to_string(), claims: Some(Struct { fields: claims }) })
}

/// Numbers become doubles, which hold whole numbers up to 2^53. The depth was bounded when the token was parsed.
fn to_value(json: &Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        Json::String(value) => Kind::StringValue(value.clone()),
        Json::Array(values) => Kind::ListValue(ListValue { values: values.iter().map(to_value).collect() }),
        Json::Object(values) => Kind::StructValue(Struct {
            fields: values.iter().map(|(name, value)| (name.clone(), to_value(value))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}
