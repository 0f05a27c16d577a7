//! Health and metrics over HTTP: `/livez`, `/readyz`, `/readyz/PART`, `/metrics`. On a Unix socket in the data
//! directory; on TCP only when asked, since nobody is authenticated here.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{Condition, Health, State};

/// Renders the metrics as they are now.
pub(crate) type Scrape = Arc<dyn Fn() -> String + Send + Sync>;

#[derive(Clone)]
struct Served {
    health: Health,
    scrape: Scrape,
}

/// The routes. No request has a body, and none does work that grows with what it sends.
pub(crate) fn router(health: Health, scrape: Scrape) -> Router {
    Router::new()
        .route("/livez", get(live))
        .route("/live", get(live))
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .route("/ready", get(ready))
        .route("/readyz/{part}", get(ready_part))
        .route("/metrics", get(metrics))
        .with_state(Served { health, scrape })
}

/// Alive: this answer is the proof.
async fn live() -> &'static str {
    "ok\n"
}

/// 200 unless a part is unready; which and why, if not, or with `?verbose`.
async fn ready(Shared(served): Shared<Served>, RawQuery(query): RawQuery) -> Response {
    let conditions = served.health.conditions();
    let verbose =
        query.is_some_and(|query| query.split('&').any(|key| key == "verbose" || key.starts_with("verbose=")));
    let worst = conditions.iter().map(|condition| condition.state).max().unwrap_or(State::Ready);
    let mut body = String::new();
    for condition in conditions.iter().filter(|condition| verbose || condition.state != State::Ready) {
        describe(&mut body, condition);
    }
    body.push_str(match worst {
        State::Ready => "ok\n",
        State::Degraded => "ok, degraded\n",
        State::Unready => "not ready\n",
    });
    (status(worst), body).into_response()
}

async fn ready_part(Shared(served): Shared<Served>, Path(part): Path<String>) -> Response {
    let conditions = served.health.conditions();
    let Some(condition) = conditions.iter().find(|condition| condition.part.as_str() == part) else {
        let parts: Vec<&str> = super::Part::ALL.iter().map(|part| part.as_str()).collect();
        return (StatusCode::NOT_FOUND, format!("no such part; there are {}\n", parts.join(", "))).into_response();
    };
    let mut body = String::new();
    describe(&mut body, condition);
    (status(condition.state), body).into_response()
}

async fn metrics(Shared(served): Shared<Served>) -> Response {
    let text = (served.scrape)();
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

/// Degraded is ready: what still works must not be taken out of service for a warning.
fn status(state: State) -> StatusCode {
    match state {
        State::Ready | State::Degraded => StatusCode::OK,
        State::Unready => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn describe(body: &mut String, condition: &Condition) {
    let sign = match condition.state {
        State::Ready => '+',
        State::Degraded => '!',
        State::Unready => '-',
    };
    // Writing to a `String` does not fail.
    let _ = write!(body, "[{sign}] {} {}", condition.part, condition.state.as_str());
    if !condition.reason.is_empty() {
        let _ = write!(body, ": {}", condition.reason);
    }
    body.push('\n');
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;
    use crate::health::Part;

    async fn answer(router: &Router, path: &str) -> (u16, String) {
        let response = router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_tells_the_truth() {
        let health = Health::new();
        let router = router(health.clone(), Arc::new(|| "# EOF\n".to_owned()));
        assert_eq!(answer(&router, "/livez").await, (200, "ok\n".into()));
        assert_eq!(answer(&router, "/readyz").await.0, 503);
        for part in Part::ALL {
            health.set(part, State::Ready, "");
        }
        assert_eq!(answer(&router, "/readyz").await, (200, "ok\n".into()));
        health.set(Part::Disk, State::Degraded, "9 % of the disk is free");
        assert_eq!(
            answer(&router, "/readyz").await,
            (200, "[!] disk degraded: 9 % of the disk is free\nok, degraded\n".into())
        );
        health.set(Part::Clock, State::Unready, "the clock is 10 min behind");
        assert_eq!(
            answer(&router, "/readyz/clock").await,
            (503, "[-] clock unready: the clock is 10 min behind\n".into())
        );
        assert_eq!(answer(&router, "/readyz/store").await, (200, "[+] store ready\n".into()));
        assert_eq!(answer(&router, "/readyz/nothing").await.0, 404);
        let (status, verbose) = answer(&router, "/readyz?verbose").await;
        assert_eq!((status, verbose.lines().count()), (503, Part::ALL.len() + 1));
        assert_eq!(answer(&router, "/livez").await.0, 200, "not ready is not dead");
        assert_eq!(answer(&router, "/metrics").await, (200, "# EOF\n".into()));
    }
}
